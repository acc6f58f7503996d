"""What Serve itself says about the stages, looked at from a thread every few seconds.

``serve.status()`` is a call to the controller that takes 20 ms and may hang with it, so nothing in
a request's path makes it (serving.md section 2). Heartbeats say more and say it first; this is for
what has no heartbeat: applications that are missing, failed, starting or scaled to zero.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Sight:
    """A deployment in Serve's status.

    ``since`` is when it was first seen with this status, ``none_since`` when it was first seen with
    no replica that runs or comes, if it has none.
    """

    status: str  # UPDATING, HEALTHY, UNHEALTHY, DEPLOY_FAILED, UPSCALING, DOWNSCALING
    running: int
    coming: int  # replicas that start or recover
    message: str
    since: float = 0.0
    none_since: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """All stages at one moment; a stage that Serve does not know is None."""

    at: float
    stages: Mapping[str, Sight | None]


Look = Callable[[], Mapping[str, Sight | None]]


class StatusMonitor:
    """Keeps the latest snapshot. A look that hangs is waited for and never made twice."""

    def __init__(
        self, look: Look, *, period_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self.latest: Snapshot | None = None
        self._look = look
        self._period_s = period_s
        self._clock = clock

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(self._period_s)

    async def look(self) -> None:
        """Look once. A failed look leaves the old snapshot, which then grows too old to count."""
        began = self._clock()
        try:
            seen = await asyncio.to_thread(self._look)
        except Exception as error:
            log.warning("Serve's status is not to be had: %s", error)
            return
        before = self.latest.stages if self.latest else {}
        self.latest = Snapshot(
            began, {name: _dated(sight, before.get(name), began) for name, sight in seen.items()}
        )


def serve_status(deployments: Mapping[str, tuple[str, str]]) -> Look:
    """A look at ``{stage: (application, deployment)}`` in Serve's own status."""
    from ray import serve

    def look() -> dict[str, Sight | None]:
        applications = serve.status().applications
        seen: dict[str, Sight | None] = {}
        for stage, (application, deployment) in deployments.items():
            overview = applications.get(application)
            found = overview.deployments.get(deployment) if overview else None
            if overview is None:
                seen[stage] = None
            elif found is None:  # the application is being built, or its builder failed
                seen[stage] = Sight(_word(overview.status), 0, 0, overview.message)
            else:
                replicas = {_word(state): number for state, number in found.replica_states.items()}
                seen[stage] = Sight(
                    status=_word(found.status),
                    running=replicas.get("RUNNING", 0),
                    coming=sum(replicas.get(name, 0) for name in ("STARTING", "RECOVERING")),
                    message=found.message or overview.message,
                )
        return seen

    return look


def _word(status: object) -> str:
    """Serve gives an enum member or its text, depending on where it asks."""
    return str(getattr(status, "value", status))


def _dated(sight: Sight | None, before: Sight | None, now: float) -> Sight | None:
    if sight is None:
        return None
    since, none_since = now, None if sight.running or sight.coming else now
    if before is not None and before.status == sight.status:
        since = before.since
    if before is not None and before.none_since is not None and none_since is not None:
        none_since = before.none_since
    return replace(sight, since=since, none_since=none_since)
