"""Digests in files of their own, for stores that can not keep one with a file.

``stage1/color_0.png`` has ``stage1/.color_0.png.sha256`` beside it, in the form of ``sha256sum``.
The record is written first, so no file is ever without one. Where a file is replaced by another
content, the record names both until the new one is in place: a reader meets one of them.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from typing import BinaryIO

from serve_app.storage.protocol import Storage, damaged, digest_of, reported

SUFFIX = ".sha256"
LOOKS = 5  # a file that is being replaced may differ from its record between two looks


class RecordingStorage(Storage):
    """A store made of three primitives, which move bytes and know nothing of digests."""

    @abstractmethod
    def _put(self, path: str, data: bytes) -> None:
        """Write a file, whole or not at all."""

    @abstractmethod
    def _get(self, path: str) -> BinaryIO:
        """A seekable file; ``FileNotFoundError`` without one."""

    @abstractmethod
    def _remove(self, path: str) -> None:
        """Remove a file or a tree; nothing happens when it is not there."""

    def write(self, path: str, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        with reported(f"write {path}", self.url):
            before = self._recorded(path)
            if before != {digest}:
                self._record(path, {digest, *before})
            self._put(path, data)
            if before - {digest}:
                self._record(path, {digest})
        return digest

    def open(self, path: str) -> BinaryIO:
        with reported(f"read {path}", self.url, reading=True):
            for _ in range(LOOKS):
                file = self._get(path)
                try:
                    digest = digest_of(file)
                    known = self._recorded(path)
                    if not known or digest in known:
                        file.seek(0)
                        return file
                except BaseException:
                    file.close()
                    raise
                file.close()
        raise damaged(path)

    def delete(self, path: str) -> None:
        with reported(f"delete {path}", self.url):
            self._remove(path)
            self._remove(record_of(path))

    def _record(self, path: str, digests: set[str]) -> None:
        name = path.rpartition("/")[2]
        lines = "".join(f"{digest}  {name}\n" for digest in sorted(digests))
        self._put(record_of(path), lines.encode())

    def _recorded(self, path: str) -> set[str]:
        """Digests that the record names; empty without a record."""
        try:
            with self._get(record_of(path)) as file:
                words = [line.split(maxsplit=1) for line in file.read().decode().splitlines()]
        except FileNotFoundError:
            return set()
        return {parts[0] for parts in words if parts} or {"an empty record"}


def record_of(path: str) -> str:
    """Path of a file's record."""
    directory, slash, name = path.rpartition("/")
    return f"{directory}{slash}.{name}{SUFFIX}"


def is_record(path: str) -> bool:
    """Whether a path is that of a record, which no list shows."""
    name = path.rpartition("/")[2]
    return name.startswith(".") and name.endswith(SUFFIX)
