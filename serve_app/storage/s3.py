"""Artifacts in a bucket of Amazon S3, or of a server that speaks like it (MinIO, Ceph, R2 ...).

    s3://bucket/prefix
    s3://bucket/prefix?endpoint=http://minio:9000&region=eu-west-1

Credentials come from where AWS's own tools take them (environment, profile, role of the machine)
and never from the URL. An object appears when its upload has ended and carries its SHA-256 twice:
as S3's own checksum, with which the server refuses an upload that arrived damaged, and as metadata,
which comes back with every read.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qsl, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from deployments.errors import ServiceError
from serve_app.storage.protocol import PIECE, Storage, damaged, path_parts, reported

ABSENT = ("404", "NoSuchKey", "NotFound")
RECORD = "sha256"  # x-amz-meta-sha256
IN_MEMORY = 8 << 20  # bytes of a file being read before it goes to a temporary one
DELETED_AT_ONCE = 1000  # what one request may name
PARAMETERS = ("endpoint", "region")


class S3Storage(Storage):
    """A prefix of a bucket.

    :raises ServiceError: ``storage_unavailable`` for a URL without a bucket or with an unknown
        parameter.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        given = dict(parse_qsl(parts.query))
        if not parts.netloc or "@" in parts.netloc or set(given) - set(PARAMETERS):
            raise ServiceError(
                f"storage_url {url} must be s3://bucket/prefix with no parameters but "
                f"{' and '.join(PARAMETERS)}; credentials do not belong into it",
                code="storage_unavailable",
            )
        self._given = url
        self.url = url.split("?", 1)[0].rstrip("/")
        self._bucket = parts.netloc
        self._prefix = "".join(f"{part}/" for part in parts.path.split("/") if part)
        with reported("open", self.url):
            self._client: Any = boto3.session.Session().client(
                "s3",
                endpoint_url=given.get("endpoint"),
                region_name=given.get("region"),
                config=Config(
                    connect_timeout=5,
                    read_timeout=60,
                    max_pool_connections=32,
                    retries={"mode": "standard", "max_attempts": 4},
                    # Servers that are not Amazon's rarely have a name for every bucket.
                    s3={"addressing_style": "path" if "endpoint" in given else "auto"},
                ),
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Storage, (self._given,)

    def write(self, path: str, data: bytes) -> str:
        digest = hashlib.sha256(data)
        with self._talking(f"write {path}"):
            self._client.put_object(
                Bucket=self._bucket,
                Key=self._key(path),
                Body=data,
                ChecksumAlgorithm="SHA256",
                ChecksumSHA256=base64.b64encode(digest.digest()).decode(),
                Metadata={RECORD: digest.hexdigest()},
            )
        return digest.hexdigest()

    def open(self, path: str) -> BinaryIO:
        digest = hashlib.sha256()
        copy = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - the caller closes it
        try:
            with self._talking(f"read {path}", reading=True):
                answer = self._client.get_object(Bucket=self._bucket, Key=self._key(path))
                with contextlib.closing(answer["Body"]) as body:
                    while piece := body.read(PIECE):
                        digest.update(piece)
                        copy.write(piece)
                copy.seek(0)
            if answer["Metadata"].get(RECORD) not in (None, digest.hexdigest()):
                raise damaged(path)
        except BaseException:
            copy.close()
            raise
        return cast("BinaryIO", copy)

    def exists(self, path: str) -> bool:
        try:
            self.size(path)
        except ServiceError as error:
            if error.code != "not_found":
                raise
            return False
        return True

    def size(self, path: str) -> int:
        with self._talking(f"look for {path}", reading=True):
            return int(
                self._client.head_object(Bucket=self._bucket, Key=self._key(path))["ContentLength"]
            )

    def list(self, directory: str) -> list[str]:
        with self._talking(f"list {directory}"):
            below = len(self._prefix)
            return sorted(key[below:] for key in self._keys_below(directory))

    def delete(self, path: str) -> None:
        with self._talking(f"delete {path}"):
            keys = [self._key(path), *self._keys_below(path)]
            for start in range(0, len(keys), DELETED_AT_ONCE):
                named = [{"Key": key} for key in keys[start : start + DELETED_AT_ONCE]]
                answer = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": named, "Quiet": True}
                )
                for fault in answer.get("Errors", ()):
                    raise OSError(f"{fault['Key']}: {fault['Code']}")

    def publish(self, job_id: str, attempt_dir: str) -> None:
        """Nothing to do: a bucket has no links, and the job's row names every file."""

    def stage_location(self, job_id: str, stage: str, directory: str) -> str:
        return f"{self.url}/{directory}"

    def _key(self, path: str) -> str:
        return self._prefix + "/".join(path_parts(path))

    def _keys_below(self, directory: str) -> Iterator[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=f"{self._key(directory)}/"
        )
        for page in pages:
            yield from (entry["Key"] for entry in page.get("Contents", ()))

    @contextlib.contextmanager
    def _talking(self, action: str, *, reading: bool = False) -> Iterator[None]:
        """Like :func:`reported`, with S3's own word for a file that is not there."""
        with reported(action, self.url, reading=reading):
            try:
                yield
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in ABSENT:
                    raise FileNotFoundError(action) from error
                raise
