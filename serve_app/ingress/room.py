"""What every route works with: the jobs, the storage, the settings of the moment."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

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
    _tasks: set[asyncio.Task[None]] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        path = self.settings.api_keys_file
        self.keys = None if path is None else KeyFile(Path(path))

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that nobody waits for."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)  # the loop alone would let the task be collected
        task.add_done_callback(self._tasks.discard)

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
