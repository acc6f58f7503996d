"""The jobs room on Ray Serve."""

from __future__ import annotations

import logging
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.messages import Heartbeat
from serve_app.jobs.monitor import serve_status
from serve_app.jobs.protocol import (
    JobEvent,
    JobPage,
    JobQuery,
    JobRequest,
    JobView,
    KeyAllowance,
    ServiceState,
)
from serve_app.jobs.runner import Stages
from serve_app.jobs.service import JobRoom
from serve_app.jobs.stages import StageCaller, through_handle
from serve_app.jobs.tables import Database
from serve_app.metrics.recorder import RayRecorder
from serve_app.settings import FrontArgs, LiveArgs
from serve_app.storage import open_storage
from serve_app.tracing import open_tracer

log = logging.getLogger("ray.serve")


@serve.deployment(
    name="Jobs",
    max_ongoing_requests=500,
    health_check_period_s=10,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=660,
    max_surge_percent=100,  # the new room opens before the old one leaves
    ray_actor_options={"num_cpus": 0.2},
)
class Jobs:
    """One :class:`JobRoom` a replica. Handles of the stages may be bound or by name.

    SQLite is a file on one node and means one replica; several need PostgreSQL.

    :raises RuntimeError: at start, with SQLite and another replica of this deployment.
    """

    def __init__(
        self,
        args: FrontArgs,
        *,
        preprocess: DeploymentHandle,
        preview: DeploymentHandle,
        stage1: DeploymentHandle,
        stage2: DeploymentHandle | None,
    ) -> None:
        log.addFilter(_no_access_line)
        context = serve.get_replica_context()
        database = Database(args.database_url)
        if database.embedded and (context.world_size or 1) > 1:
            raise RuntimeError(
                f"Jobs has {context.world_size} replicas and its database is the SQLite file of "
                "one node: set num_replicas to 1, or database_url to a PostgreSQL server"
            )
        deployments = {
            "preprocess": preprocess,
            "preview": preview,
            "stage1": stage1,
            "stage2": stage2,
        }
        places = {
            name: (handle.deployment_id.app_name, handle.deployment_id.name)
            for name, handle in deployments.items()
            if handle is not None
        }
        self._drain_s = args.drain_s
        self._room = JobRoom(
            name=context.replica_id.unique_id,
            args=args,
            database=database,
            storage=open_storage(args.storage_url),
            stages=Stages(
                preprocess=_caller("preprocess", preprocess),
                stage1=_caller("stage1", stage1),
                stage2=None if stage2 is None else _caller("stage2", stage2),
                preview=_caller("preview", preview),
                export=StageCaller("export", through_handle(preview, "export")),
            ),
            look=serve_status(places),
            applications={
                name: places[name][0] if name in places else None for name in deployments
            },
            recorder=RayRecorder(),
            tracer=open_tracer(args.trace_endpoint, args.trace_ratio),
        )
        self._room.start()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Change limits, waits and mode without a restart (``user_config`` of the YAML)."""
        current = self._room.live.model_dump()
        self._room.live = LiveArgs.model_validate({**current, **user_config})

    def check_health(self) -> None:
        self._room.check()

    async def __del__(self) -> None:
        """Serve awaits this within the grace period: the place for the running jobs to finish."""
        await self._room.drain(self._drain_s)

    # JobService, by RemoteJobs

    async def submit(self, request: JobRequest) -> JobView:
        return await self._room.submit(request)

    async def get(self, job_id: str, owner: str | None) -> JobView:
        return await self._room.get(job_id, owner)

    async def page(self, query: JobQuery) -> JobPage:
        return await self._room.page(query)

    async def events_after(
        self, job_id: str, after: int, wait_s: float
    ) -> tuple[list[JobEvent], bool]:
        return await self._room.events_after(job_id, after, wait_s)

    async def cancel(self, job_id: str, owner: str | None) -> JobView:
        return await self._room.cancel(job_id, owner)

    async def remove(self, job_id: str, owner: str | None) -> JobView:
        return await self._room.remove(job_id, owner)

    async def use_key(self, owner: str, per_minute: int) -> KeyAllowance:
        return await self._room.use_key(owner, per_minute)

    async def state(self) -> ServiceState:
        return await self._room.state()

    # The stage replicas, by JobsLine

    async def alive(self, job_id: str, fence: int) -> float:
        return await self._room.alive(job_id, fence)

    async def heartbeat(self, heartbeat: Heartbeat) -> None:
        await self._room.heartbeat(heartbeat)


def _no_access_line(record: logging.LogRecord) -> bool:
    """A line a heartbeat and a poll says nothing.

    Not by ``logging_config``: a deployment's own replaces the application's, and with it the
    encoding that the operator chose.
    """
    return not getattr(record, "serve_access_log", False)


def _caller(stage: str, handle: DeploymentHandle) -> StageCaller:
    return StageCaller(stage, through_handle(handle))
