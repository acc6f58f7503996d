"""serve_app/storage/s3.py against a local S3 server."""

from __future__ import annotations

import base64
import hashlib
import os
import socket

import pytest
from local_s3 import LocalBucket

from deployments.errors import ServiceError
from serve_app.storage import open_storage


def test_an_object_carries_its_digest_twice(bucket: LocalBucket) -> None:
    data = os.urandom(1000)
    digest = open_storage(bucket.url()).write("a1/1/stage2/output.glb", data)
    assert bucket.keys() == ["jobs/a1/1/stage2/output.glb"]
    head = bucket.client.head_object(
        Bucket=bucket.name, Key="jobs/a1/1/stage2/output.glb", ChecksumMode="ENABLED"
    )
    assert head["Metadata"] == {"sha256": digest}
    assert base64.b64decode(head["ChecksumSHA256"]).hex() == digest
    assert digest == hashlib.sha256(data).hexdigest()


def test_changed_content_is_damaged_and_not_handed_out(bucket: LocalBucket) -> None:
    storage = open_storage(bucket.url())
    storage.write("a1/x.png", b"what was written")
    bucket.replace("jobs/a1/x.png", b"what somebody put there")
    for call in (storage.open, storage.read, storage.sha256):
        with pytest.raises(ServiceError, match=r"a1/x\.png is damaged") as caught:
            call("a1/x.png")
        assert caught.value.code == "artifact_damaged"


def test_a_file_larger_than_memory_is_wanted_for(bucket: LocalBucket) -> None:
    data = os.urandom(12 << 20)
    storage = open_storage(bucket.url())
    storage.write("a1/big", data)
    with storage.open("a1/big") as file:
        file.seek(11 << 20)
        assert file.read() == data[11 << 20 :]


def test_a_tree_of_more_files_than_one_request_names(bucket: LocalBucket) -> None:
    storage = open_storage(bucket.url())
    for number in range(1010):
        bucket.client.put_object(Bucket=bucket.name, Key=f"jobs/a1/{number}", Body=b"x")
    storage.write("a12/x", b"a neighbour whose name begins alike")
    assert len(storage.list("a1")) == 1010
    storage.delete("a1")
    assert storage.list("a1") == []
    assert storage.exists("a12/x")


def test_a_prefix_is_optional(bucket: LocalBucket) -> None:
    storage = open_storage(bucket.url(""))
    storage.write("a1/x", b"1")
    assert bucket.keys() == ["a1/x"]
    assert storage.list("a1") == ["a1/x"]
    assert storage.stage_location("a1", "stage1", "a1/1/stage1") == (
        f"s3://{bucket.name}/a1/1/stage1"
    )


@pytest.mark.parametrize(
    "url", ["s3://", "s3://key:secret@bucket/jobs", "s3://bucket/jobs?secret=1"]
)
def test_a_url_that_is_refused(url: str) -> None:
    with pytest.raises(ServiceError, match="must be s3://bucket/prefix") as caught:
        open_storage(url)
    assert caught.value.code == "storage_unavailable"


def test_a_bucket_that_is_not_there(bucket: LocalBucket) -> None:
    storage = open_storage(f"s3://no-such-bucket?endpoint={bucket.endpoint}&region=us-east-1")
    for call in (lambda: storage.write("a1/x", b"1"), lambda: storage.read("a1/x")):
        with pytest.raises(ServiceError, match="NoSuchBucket") as caught:
            call()
        assert caught.value.code == "storage_unavailable"


def test_a_server_that_is_away(bucket: LocalBucket) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    storage = open_storage(f"s3://bucket?endpoint=http://127.0.0.1:{port}&region=us-east-1")
    with pytest.raises(ServiceError, match="Could not connect") as caught:
        storage.exists("a1/x")
    assert caught.value.code == "storage_unavailable"
