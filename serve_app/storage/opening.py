"""From ``storage_url`` to the store that it names."""

from __future__ import annotations

from pathlib import Path

from deployments.errors import ServiceError
from serve_app.storage.folder import LocalStorage
from serve_app.storage.protocol import Storage
from serve_app.storage.remote import RemoteStorage


def open_storage(url: str | Path) -> Storage:
    """The storage at a folder path, a ``file://`` URL, ``s3://bucket/prefix`` or an fsspec URL.

    :raises ServiceError: ``storage_unavailable`` when the folder or the file system is not usable.
    """
    text = str(url)
    if "://" not in text:
        return LocalStorage(Path(text))
    if text.startswith(("file://", "local://")):
        return LocalStorage(Path(text.split("://", 1)[1]))
    if text.startswith("s3://"):
        try:
            from serve_app.storage.s3 import S3Storage
        except ImportError as error:
            raise ServiceError(
                f"storage at {text} needs boto3, which is not installed. "
                "Install it: pip install 'synchuman-serve[s3]'",
                code="storage_unavailable",
            ) from error
        return S3Storage(text)
    return RemoteStorage(text)
