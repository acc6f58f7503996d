"""Artifacts at any fsspec URL (``gs://bucket/jobs``, ``abfs://``, ``memory://`` ...)."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import uuid
from typing import Any, BinaryIO, cast

from serve_app.storage.protocol import PIECE, path_parts, reported
from serve_app.storage.records import RecordingStorage, is_record

# Stores where an object appears when its upload has ended: a temporary name would only copy twice.
WHOLE_OBJECT_PROTOCOLS = frozenset(
    {"gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "hf", "memory"}
)
IN_MEMORY = 8 << 20  # bytes of a file being read before it goes to a temporary one


class RemoteStorage(RecordingStorage):
    """A file system of fsspec."""

    def __init__(self, url: str) -> None:
        self.url = url
        with reported("open", url):
            import fsspec

            self._files, root = cast("tuple[Any, str]", fsspec.url_to_fs(url))
        self._root = root.rstrip("/")
        protocol = self._files.protocol
        names = {protocol} if isinstance(protocol, str) else set(protocol)
        self._appears_whole = bool(names & WHOLE_OBJECT_PROTOCOLS)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteStorage, (self.url,)

    def _put(self, path: str, data: bytes) -> None:
        place = self._place(path)
        self._files.makedirs(place.rpartition("/")[0], exist_ok=True)
        if self._appears_whole:
            self._files.pipe_file(place, data)
            return
        temporary = f"{place}.{uuid.uuid4().hex}.part"
        try:
            self._files.pipe_file(temporary, data)
            self._files.mv(temporary, place)
        except BaseException:
            with contextlib.suppress(Exception):
                self._files.rm_file(temporary)
            raise

    def _get(self, path: str) -> BinaryIO:
        copy = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - the caller closes it
        try:
            with self._files.open(self._place(path), "rb") as file:
                shutil.copyfileobj(file, copy, PIECE)
            copy.seek(0)
        except BaseException:
            copy.close()
            raise
        return cast("BinaryIO", copy)

    def _remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._files.rm(self._place(path), recursive=True)

    def exists(self, path: str) -> bool:
        with reported(f"look for {path}", self.url, reading=True):
            return bool(self._files.exists(self._place(path)))

    def size(self, path: str) -> int:
        with reported(f"look for {path}", self.url, reading=True):
            return int(self._files.size(self._place(path)))

    def list(self, directory: str) -> list[str]:
        with reported(f"list {directory}", self.url):
            below = len(self._root) + 1
            found = [name[below:] for name in self._files.find(self._place(directory))]
        return sorted(n for n in found if not (n.endswith(".part") or is_record(n)))

    def publish(self, job_id: str, attempt_dir: str) -> None:
        """Nothing to do: object stores have no links, and the job's row names every file."""

    def stage_location(self, job_id: str, stage: str, directory: str) -> str:
        return f"{self.url.rstrip('/')}/{directory}"

    def _place(self, path: str) -> str:
        return "/".join((self._root, *path_parts(path)))
