"""What every route works with: the jobs, the storage, the settings of the moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast

from fastapi import Depends, Request

from serve_app.ingress.fetch import FetchLimits, Resolver, system_resolver
from serve_app.ingress.keys import KeyFile
from serve_app.jobs.protocol import JobService
from serve_app.settings import FrontArgs
from serve_app.storage import Storage


@dataclass
class Room:
    """One API's surroundings. ``settings`` is replaced when the service is reconfigured."""

    service: JobService
    storage: Storage
    settings: FrontArgs
    resolver: Resolver = field(default=system_resolver)
    keys: KeyFile | None = field(init=False)

    def __post_init__(self) -> None:
        path = self.settings.api_keys_file
        self.keys = None if path is None else KeyFile(Path(path))

    @property
    def max_upload_bytes(self) -> int:
        return int(self.settings.max_upload_mb * 1_000_000)

    @property
    def fetch_limits(self) -> FetchLimits:
        return FetchLimits(
            max_bytes=self.max_upload_bytes,
            timeout_s=self.settings.fetch_timeout_s,
            allow_private=self.settings.allow_private_urls,
        )


def _room(request: Request) -> Room:
    return cast("Room", request.app.state.room)


TheRoom = Annotated[Room, Depends(_room)]
