"""A job's files into a folder: each one whole or not at all, going on where an earlier try stopped.

out/stage2/output.glb ...       moved here when whole and of the manifest's SHA-256
out/.part-<job>/stage2/...      what is still on its way; gone at the end
out/manifest.json               moved last: where it lies, everything it names lies too
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import httpx2

from serve_app.client.effects import Block, Call, Receive, Steps, Streamed
from serve_app.client.errors import ClientError, DownloadDamaged
from serve_app.client.exchange import PassingError, Patience, exchange, no_answer, parsed, stream
from serve_app.ingress.schemas import JobAnswer

MANIFEST = "manifest.json"
PIECE = 1 << 20
SILENCE_S = 60.0


@dataclass(frozen=True)
class _Wanted:
    """One file: its name in the result, where it goes, and what the manifest says of it."""

    name: str
    place: Path
    part: Path
    sha256: str | None


def download(
    job_id: str, folder: Path, patience: Patience, only: Sequence[str] = ()
) -> Steps[list[Path]]:
    """Fetch the files whose names match one of the patterns ``only``, or all.

    :returns: where they lie, sorted.
    :raises RequestRefused: ``not_finished``, ``no_result``; NotThere: ``expired`` ...
    :raises DownloadDamaged: when a file is twice not what the manifest says.
    """
    job = parsed(JobAnswer, (yield from exchange(Call("GET", f"/jobs/{job_id}"), patience)))
    names = [name for name in sorted(job.files) if _matches(name, only)]
    parts = folder / f".part-{job_id}"
    place = f"/jobs/{job_id}/files/"
    # Also where no file is known: the service says best why a job has no files.
    answer = yield from exchange(Call("GET", place + MANIFEST), patience)
    known: dict[str, Any] = json.loads(answer.content).get("files", {})
    done = []
    for name in names:
        if name == MANIFEST:
            continue
        wanted = _Wanted(name, folder / _inside(name), parts / name, _sha256(known, name))
        yield from _one(wanted, place + quote(name), patience)
        done.append(wanted.place)
    if MANIFEST in names:
        yield Block(lambda: _moved(_written(parts / MANIFEST, answer.content), folder / MANIFEST))
        done.append(folder / MANIFEST)
    yield Block(lambda: shutil.rmtree(parts, ignore_errors=True))
    return sorted(done)


def is_complete(folder: Path, job_id: str) -> bool:
    """Whether a folder holds the whole result of a job, every file as its manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files: dict[str, Any] = manifest["files"]
        return manifest["job_id"] == job_id and all(
            _is_whole(folder / _inside(name), facts["sha256"]) for name, facts in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _one(wanted: _Wanted, path: str, patience: Patience) -> Steps[None]:
    if wanted.sha256 and (yield Block(lambda: _is_whole(wanted.place, wanted.sha256))):
        return
    for _ in range(2):  # what an earlier try left may be of another service's file
        yield from _fetch(wanted, path, patience)
        if not wanted.sha256 or (yield Block(lambda: _is_whole(wanted.part, wanted.sha256))):
            yield Block(lambda: _moved(wanted.part, wanted.place))
            return
        yield Block(lambda: wanted.part.unlink())
    raise DownloadDamaged(
        f"{wanted.name} does not have the SHA-256 of the job's manifest. Download it again; if "
        "that comes back, the service's storage or a proxy changes it"
    )


def _fetch(wanted: _Wanted, path: str, patience: Patience) -> Steps[None]:
    """Bring the part to the file's whole length, in as many pieces as the connection breaks."""
    pauses = patience.pauses()
    while True:
        have: int = yield Block(lambda: _size(wanted.part))
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        call = Call("GET", path, headers, read_timeout_s=SILENCE_S)
        grown = False
        try:
            streamed = yield from stream(call)
            if streamed.response.status_code != 206:
                yield Block(lambda: wanted.part.unlink(missing_ok=True))
            while (piece := (yield Receive(streamed))) is not None:
                grown = True
                yield Block(functools.partial(_append, wanted.part, piece))
            if not _cut_short(streamed, (yield Block(lambda: _size(wanted.part)))):
                yield Block(lambda: _append(wanted.part, b""))  # also a file of 0 bytes is there
                return
            error: ClientError = no_answer(call, httpx2.ReadError("the body was cut short"))
        except PassingError as passing:
            error = passing.error
        except ClientError as refused:
            if refused.status == 416 and have:  # whole already, or of another file: the hash tells
                return
            raise
        except httpx2.TransportError as lost:
            error = no_answer(call, lost)
        if grown:
            pauses = patience.pauses()
        yield pauses.after(error)


def _cut_short(streamed: Streamed, size: int) -> bool:
    """Whether less came than the headers had promised."""
    headers = streamed.response.headers
    total = headers.get("content-range", "").rpartition("/")[2] or headers.get("content-length", "")
    return bool(total.isdecimal()) and size < int(total)


def _matches(name: str, only: Sequence[str]) -> bool:
    return not only or any(fnmatch.fnmatchcase(name, pattern) for pattern in only)


def _inside(name: str) -> PurePosixPath:
    """A file's name as a path. A service can not make a client write outside its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or "\\" in name or ":" in name or not set(path.parts).isdisjoint({".."}):
        raise DownloadDamaged(f"the service names a file {name!r}, which leads out of the folder")
    return path


def _sha256(known: dict[str, Any], name: str) -> str | None:
    facts = known.get(name)
    return str(facts["sha256"]) if isinstance(facts, dict) and "sha256" in facts else None


def _is_whole(place: Path, sha256: str | None) -> bool:
    try:
        with place.open("rb") as file:
            digest = hashlib.sha256()
            while piece := file.read(PIECE):
                digest.update(piece)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return digest.hexdigest() == sha256


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _append(part: Path, piece: bytes) -> None:
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as file:
        file.write(piece)


def _written(part: Path, data: bytes) -> Path:
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(data)
    return part


def _moved(part: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    part.replace(place)
