"""A bucket of the local S3 server, looked at by boto3 itself and not by the code under test."""

from __future__ import annotations

import uuid
from typing import Any

import boto3


class LocalBucket:
    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.name = f"bucket-{uuid.uuid4().hex}"
        self.client: Any = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        self.client.create_bucket(Bucket=self.name)

    def url(self, prefix: str = "jobs") -> str:
        """A ``storage_url``."""
        return f"s3://{self.name}/{prefix}?endpoint={self.endpoint}&region=us-east-1"

    def keys(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return [entry["Key"] for entry in found]

    def replace(self, key: str, body: bytes) -> None:
        """Other content under the metadata that the object had, as a fault of the server would."""
        kept = self.client.head_object(Bucket=self.name, Key=key)["Metadata"]
        self.client.put_object(Bucket=self.name, Key=key, Body=body, Metadata=kept)
