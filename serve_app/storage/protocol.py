"""What a store of artifacts promises, whatever holds the bytes.

Paths are relative, with forward slashes, and begin with the job: ``<job>/input.png``,
``<job>/<fence>/stage1/color_0.png``. Two promises hold for every file:

- It is there whole or not at all: what a reader sees was written to its end.
- Its SHA-256 is recorded when it is written and checked whenever it is read, so a file that a disk
  or a hand has changed is ``artifact_damaged`` and never handed out. A file without a record, from
  a release before there were any, is read as it is.

Every call blocks; callers on an event loop use ``asyncio.to_thread``.
"""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import BinaryIO

from deployments.errors import ServiceError

PIECE = 1 << 20


class Storage(ABC):
    """Whole-or-nothing, checked files below one root.

    Every method raises ``storage_unavailable`` when the store does not answer or has no space.
    """

    url: str

    @abstractmethod
    def write(self, path: str, data: bytes) -> str:
        """Store a file, replacing what was there, and return its SHA-256 in hexadecimal."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """A file for reading, seekable, its content checked. The caller closes it.

        :raises ServiceError: ``not_found``, ``artifact_damaged``.
        """

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
        """A file's content, checked like :meth:`open`."""
        with reported(f"read {path}", self.url, reading=True), self.open(path) as file:
            return file.read()

    def sha256(self, path: str) -> str:
        """SHA-256 of a file's content in hexadecimal, checked like :meth:`open`."""
        with reported(f"read {path}", self.url, reading=True), self.open(path) as file:
            return digest_of(file)


def digest_of(file: BinaryIO) -> str:
    """SHA-256 of the rest of a file, read in pieces."""
    digest = hashlib.sha256()
    while piece := file.read(PIECE):
        digest.update(piece)
    return digest.hexdigest()


def path_parts(path: str) -> tuple[str, ...]:
    """The segments of a storage path. Anything that could leave the root is refused."""
    parts = tuple(path.split("/"))
    if not path or "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise ServiceError(
            f"storage path {path!r} is not a relative path of plain names", code="not_found"
        )
    return parts


def damaged(path: str) -> ServiceError:
    """What a file is whose content is not what was written."""
    return ServiceError(
        f"{path} is damaged: its content does not have the SHA-256 that was recorded when it was "
        "written, so it is not handed out. Send the picture again; the operator has to look at "
        "the storage",
        code="artifact_damaged",
    )


@contextlib.contextmanager
def reported(action: str, url: str, *, reading: bool = False) -> Iterator[None]:
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
