"""What every route works with: the jobs, the storage, the settings of the moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast

from fastapi import Depends, Request

from deployments.errors import ServiceError
from serve_app.address_guard import Resolver, system_resolver
from serve_app.ingress.fetch import FetchLimits
from serve_app.ingress.keys import KeyFile, Limits
from serve_app.jobs.protocol import JobService
from serve_app.settings import FrontArgs
from serve_app.storage import Storage

INTAKE_RETRY_S = 5


@dataclass
class Room:
    """One API's surroundings. ``settings`` is replaced when the service is reconfigured."""

    service: JobService
    storage: Storage
    settings: FrontArgs
    resolver: Resolver = field(default=system_resolver)
    keys: KeyFile | None = field(init=False)
    _intakes: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        path = self.settings.api_keys_file
        self.keys = None if path is None else KeyFile(Path(path))

    def limits_of(self, owner: str) -> Limits:
        """What the API key with this hash may ask."""
        usual = Limits(self.settings.key_requests_per_minute, self.settings.key_jobs_at_once)
        return usual if self.keys is None else self.keys.limits_of(owner, usual)

    @contextmanager
    def intake(self) -> Iterator[None]:
        """A picture is in memory until its job is committed: only so many at once.

        :raises ServiceError: ``too_busy``.
        """
        if self._intakes >= self.settings.max_intakes:
            raise ServiceError(
                f"{self._intakes} pictures are being taken in at this moment, which is all that "
                "this replica takes. Send the request again in a few seconds",
                code="too_busy",
                retry_after=INTAKE_RETRY_S,
            )
        self._intakes += 1
        try:
            yield
        finally:
            self._intakes -= 1

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
