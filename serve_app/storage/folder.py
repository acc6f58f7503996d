"""Artifacts in a local folder.

A finished job also has the layout of unified_api.md, as relative links into the attempt that won,
so that old attempts never show through:

    tmp_api_jobs/<job>/3/stage1/color_0.png ...          the artifacts
    tmp_api_jobs/<job>/stage1         -> 3/stage1        the layout of the ZIP
    tmp_api_jobs/<job>/stage1_output  -> 3/stage1        what the JSON answer names
    tmp_api_jobs/<job>/manifest.json  -> 3/manifest.json
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from serve_app.storage.protocol import path_parts, reported
from serve_app.storage.records import RecordingStorage, is_record

STAGES = ("stage1", "stage2")


def write_whole(place: Path, data: bytes) -> None:
    """Write a file beside its place and rename it into it; folders are made.

    :raises OSError: and then nothing has changed.
    """
    temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex}.part")
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


class LocalStorage(RecordingStorage):
    """A folder."""

    def __init__(self, root: Path) -> None:
        self.url = str(root)
        self.root = root

    def _put(self, path: str, data: bytes) -> None:
        write_whole(self._place(path), data)

    def _get(self, path: str) -> BinaryIO:
        return self._place(path).open("rb")

    def _remove(self, path: str) -> None:
        place = self._place(path)
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def exists(self, path: str) -> bool:
        with reported(f"look for {path}", self.url, reading=True):
            return self._place(path).exists()

    def size(self, path: str) -> int:
        with reported(f"look for {path}", self.url, reading=True):
            return self._place(path).stat().st_size

    def list(self, directory: str) -> list[str]:
        found: list[str] = []
        with reported(f"list {directory}", self.url):
            for folder, _, names in os.walk(self._place(directory)):
                inside = Path(folder)
                if inside != self.root and inside.is_symlink():
                    continue
                for name in names:
                    file = inside / name
                    if not (file.is_symlink() or name.endswith(".part") or is_record(name)):
                        found.append(file.relative_to(self.root).as_posix())
        return sorted(found)

    def publish(self, job_id: str, attempt_dir: str) -> None:
        job = self._place(job_id)
        attempt = self._place(attempt_dir)
        target = PurePosixPath(attempt_dir).relative_to(job_id)
        with reported(f"publish {attempt_dir}", self.url):
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
        return self.root.joinpath(*path_parts(path))


def _point(link: Path, target: PurePosixPath, *, there: bool) -> None:
    """Make ``link`` a relative link to ``target`` in one step, or take an old link away."""
    if not there:
        link.unlink(missing_ok=True)
        return
    temporary = link.with_name(f".{link.name}.{uuid.uuid4().hex}.part")
    temporary.symlink_to(target)
    temporary.replace(link)
