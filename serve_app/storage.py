"""Artifacts in a local folder or at any fsspec URL.

Paths are relative, with forward slashes, and begin with the job: ``<job>/input.png``,
``<job>/<fence>/stage1/color_0.png``. A file is there whole or not at all: what a reader sees was
written to its end. Every call blocks; callers on an event loop use ``asyncio.to_thread``.

On a local folder a finished job also has the layout of unified_api.md, as relative links into the
attempt that won, so that old attempts never show through:

    tmp_api_jobs/<job>/3/stage1/color_0.png ...          the artifacts
    tmp_api_jobs/<job>/stage1         -> 3/stage1        the layout of the ZIP
    tmp_api_jobs/<job>/stage1_output  -> 3/stage1        what the JSON answer names
    tmp_api_jobs/<job>/manifest.json  -> 3/manifest.json
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from deployments.errors import ServiceError

STAGES = ("stage1", "stage2")

# Stores where an object appears when its upload has ended: a temporary name would only copy twice.
WHOLE_OBJECT_PROTOCOLS = frozenset(
    {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "hf", "memory"}
)


def open_storage(url: str | Path) -> Storage:
    """The storage at a folder path, a ``file://`` URL or any other fsspec URL.

    :raises ServiceError: ``storage_unavailable`` when the folder or the file system is not usable.
    """
    text = str(url)
    if "://" not in text:
        return LocalStorage(Path(text))
    if text.startswith(("file://", "local://")):
        return LocalStorage(Path(text.split("://", 1)[1]))
    return RemoteStorage(text)


class Storage(ABC):
    """Whole-or-nothing files below one root."""

    url: str

    @abstractmethod
    def write(self, path: str, data: bytes) -> str:
        """Store a file, replacing what was there, and return its SHA-256 in hexadecimal."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """A file for reading; ``not_found`` when it is not there. The caller closes it."""

    @abstractmethod
    def exists(self, path: str) -> bool: ...

    @abstractmethod
    def size(self, path: str) -> int:
        """Bytes of a file; ``not_found`` when it is not there."""

    @abstractmethod
    def list(self, directory: str) -> list[str]:
        """Paths of all files below a directory, sorted, links not followed; empty without one."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove a file or a whole tree; nothing happens when it is not there."""

    @abstractmethod
    def publish(self, job_id: str, attempt_dir: str) -> None:
        """Make an attempt's stages the ones that ``tmp_api_jobs/<job>/`` shows."""

    @abstractmethod
    def stage_location(self, job_id: str, stage: str, directory: str) -> str:
        """Where a person finds the files of a published stage (``output_dir`` of the answer)."""

    def read(self, path: str) -> bytes:
        """A file's content; ``not_found`` when it is not there."""
        with _reported(f"read {path}", self.url, reading=True), self.open(path) as file:
            return file.read()

    def sha256(self, path: str) -> str:
        """SHA-256 of a file in hexadecimal, read in pieces."""
        digest = hashlib.sha256()
        with _reported(f"read {path}", self.url, reading=True), self.open(path) as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()


class LocalStorage(Storage):
    """A folder. Files are written beside their place and renamed into it."""

    def __init__(self, root: Path) -> None:
        self.url = str(root)
        self.root = root

    def write(self, path: str, data: bytes) -> str:
        place = self._place(path)
        temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex}.part")
        with _reported(f"write {path}", self.url):
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())  # the row that names this file may survive a power cut
                temporary.replace(place)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        return hashlib.sha256(data).hexdigest()

    def open(self, path: str) -> BinaryIO:
        with _reported(f"read {path}", self.url, reading=True):
            return self._place(path).open("rb")

    def exists(self, path: str) -> bool:
        with _reported(f"look for {path}", self.url, reading=True):
            return self._place(path).exists()

    def size(self, path: str) -> int:
        with _reported(f"look for {path}", self.url, reading=True):
            return self._place(path).stat().st_size

    def list(self, directory: str) -> list[str]:
        found: list[str] = []
        with _reported(f"list {directory}", self.url):
            for folder, _, names in os.walk(self._place(directory)):
                inside = Path(folder)
                if inside != self.root and inside.is_symlink():
                    continue
                for name in names:
                    file = inside / name
                    if not file.is_symlink() and not name.endswith(".part"):
                        found.append(file.relative_to(self.root).as_posix())
        return sorted(found)

    def delete(self, path: str) -> None:
        place = self._place(path)
        with _reported(f"delete {path}", self.url):
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)

    def publish(self, job_id: str, attempt_dir: str) -> None:
        job = self._place(job_id)
        attempt = self._place(attempt_dir)
        target = PurePosixPath(attempt_dir).relative_to(job_id)
        with _reported(f"publish {attempt_dir}", self.url):
            for stage in STAGES:
                for link in (stage, f"{stage}_output"):
                    _point(job / link, target / stage, there=(attempt / stage).is_dir())
            manifest = "manifest.json"
            _point(job / manifest, target / manifest, there=(attempt / manifest).is_file())

    def stage_location(self, job_id: str, stage: str, directory: str) -> str:
        link = f"{job_id}/{stage}_output"
        shown = link if self._place(link).exists() else directory
        root = self.root
        with contextlib.suppress(ValueError):
            root = root.relative_to(Path.cwd())
        return (root / shown).as_posix()

    def _place(self, path: str) -> Path:
        return self.root.joinpath(*_parts(path))


class RemoteStorage(Storage):
    """Any fsspec URL (``s3://bucket/jobs``, ``gs://``, ``memory://`` ...)."""

    def __init__(self, url: str) -> None:
        self.url = url
        with _reported("open", url):
            import fsspec

            self._files, root = cast("tuple[Any, str]", fsspec.url_to_fs(url))
        self._root = root.rstrip("/")
        protocol = self._files.protocol
        names = {protocol} if isinstance(protocol, str) else set(protocol)
        self._appears_whole = bool(names & WHOLE_OBJECT_PROTOCOLS)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteStorage, (self.url,)

    def write(self, path: str, data: bytes) -> str:
        place = self._place(path)
        with _reported(f"write {path}", self.url):
            self._files.makedirs(place.rpartition("/")[0], exist_ok=True)
            if self._appears_whole:
                self._files.pipe_file(place, data)
            else:
                temporary = f"{place}.{uuid.uuid4().hex}.part"
                try:
                    self._files.pipe_file(temporary, data)
                    self._files.mv(temporary, place)
                except BaseException:
                    with contextlib.suppress(Exception):
                        self._files.rm_file(temporary)
                    raise
        return hashlib.sha256(data).hexdigest()

    def open(self, path: str) -> BinaryIO:
        with _reported(f"read {path}", self.url, reading=True):
            return cast("BinaryIO", self._files.open(self._place(path), "rb"))

    def exists(self, path: str) -> bool:
        with _reported(f"look for {path}", self.url, reading=True):
            return bool(self._files.exists(self._place(path)))

    def size(self, path: str) -> int:
        with _reported(f"look for {path}", self.url, reading=True):
            return int(self._files.size(self._place(path)))

    def list(self, directory: str) -> list[str]:
        with _reported(f"list {directory}", self.url):
            below = len(self._root) + 1
            found = [name[below:] for name in self._files.find(self._place(directory))]
        return sorted(name for name in found if not name.endswith(".part"))

    def delete(self, path: str) -> None:
        place = self._place(path)
        with _reported(f"delete {path}", self.url), contextlib.suppress(FileNotFoundError):
            self._files.rm(place, recursive=True)

    def publish(self, job_id: str, attempt_dir: str) -> None:
        """Nothing to do: object stores have no links, and the job's row names every file."""

    def stage_location(self, job_id: str, stage: str, directory: str) -> str:
        return f"{self.url.rstrip('/')}/{directory}"

    def _place(self, path: str) -> str:
        return "/".join((self._root, *_parts(path)))


def _parts(path: str) -> tuple[str, ...]:
    """The segments of a storage path. Anything that could leave the root is refused."""
    parts = tuple(path.split("/"))
    if not path or "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise ServiceError(
            f"storage path {path!r} is not a relative path of plain names", code="not_found"
        )
    return parts


def _point(link: Path, target: PurePosixPath, *, there: bool) -> None:
    """Make ``link`` a relative link to ``target`` in one step, or take an old link away."""
    if not there:
        link.unlink(missing_ok=True)
        return
    temporary = link.with_name(f".{link.name}.{uuid.uuid4().hex}.part")
    temporary.symlink_to(target)
    temporary.replace(link)


@contextlib.contextmanager
def _reported(action: str, url: str, *, reading: bool = False) -> Iterator[None]:
    """Turn what a file system raises into the service's own errors."""
    try:
        yield
    except ServiceError:
        raise
    except Exception as error:  # remote file systems raise classes of their own
        absent = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
        if reading and isinstance(error, absent):
            raise ServiceError(f"could not {action}: no such file", code="not_found") from error
        raise ServiceError(
            f"storage at {url} could not {action}: {type(error).__name__}: {error}. "
            "Check that it exists, is writable and has space",
            code="storage_unavailable",
        ) from error
