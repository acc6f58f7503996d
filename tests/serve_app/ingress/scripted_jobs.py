"""A small job service in memory whose jobs do what a test's script says, through real storage."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from deployments.contracts import Mode
from deployments.errors import ServiceError, SyncHumanError
from serve_app.jobs.outcome import failure_of
from serve_app.jobs.protocol import (
    JobEvent,
    JobFailure,
    JobKind,
    JobPage,
    JobQuery,
    JobRequest,
    JobStatus,
    JobView,
    KeyAllowance,
    ReplicaFacts,
    ServiceState,
    StageReport,
    StageState,
)
from serve_app.jobs.usage import KeyUsage
from serve_app.storage import Storage

UP = StageState(state="up")
PICTURES = [f"{kind}_{view}.png" for kind in ("color", "normal") for view in range(5)]


def replica(stage: str, **facts: Any) -> ReplicaFacts:
    """One heartbeat."""
    known = {"replica": f"{stage}-1", "device": "cpu", "checkpoint": "embedded", "seen_at": 1.0}
    return ReplicaFacts(stage=stage, **{**known, **facts})


@dataclasses.dataclass
class Script:
    """How a job of this service goes."""

    failure: JobFailure | None = None
    prepare: Callable[[bytes], object] | None = None  # run on the stored picture first
    hold: asyncio.Event | None = None  # set it to let jobs go on
    cut_events: bool = False  # the first event stream ends early, as when Jobs is replaced


class ScriptedJobs:
    """``JobService`` whose jobs succeed at once unless the script says otherwise."""

    def __init__(self, storage: Storage, mode: Mode = Mode.OFFICIAL) -> None:
        self.storage = storage
        self.script = Script()
        self.mode = mode
        self.stages = {"stage1": UP, "stage2": UP}
        self.stops_at_once = True  # False: a cancelled job runs until ``stop``
        self.seconds: dict[str, float] = {}
        self.usage: KeyUsage | None = None  # else every key may do what it likes
        self.requests: list[JobRequest] = []
        self.queries: list[JobQuery] = []
        self.cancelled: list[str] = []
        self.removed: set[str] = set()
        self.views: dict[str, JobView] = {}
        self.log: dict[str, list[JobEvent]] = {}
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, request: JobRequest) -> JobView:
        for earlier in self.requests:
            if request.idempotency_key and earlier.idempotency_key == request.idempotency_key:
                if earlier.digest != request.digest:
                    raise ServiceError("the key is taken", code="idempotency_conflict")
                return self.views[earlier.job_id]
        if request.kind is JobKind.GENERATE:
            assert self.storage.exists(request.input_path), "the picture must be stored first"
        self.requests.append(request)
        view = JobView(
            id=request.job_id,
            owner=request.owner or "",
            kind=request.kind,
            parent_id=request.parent_id,
            priority=request.terms.priority,
            status=JobStatus.QUEUED,
            mode=Mode(request.options["mode"]),
            options=request.options,
            created_at=1_700_000_000.0,
            queue_position=1,
        )
        self.views[view.id] = view
        self.log[view.id] = []
        await self._happen(view.id, "queued", {})
        task = asyncio.get_running_loop().create_task(self._run(view.id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return view

    async def get(self, job_id: str, owner: str | None = None) -> JobView:
        view = self.views.get(job_id)
        if view is None or owner not in (None, view.owner):
            raise ServiceError(f"there is no job {job_id!r}", code="not_found")
        if job_id in self.removed:
            raise ServiceError(f"job {job_id} was removed", code="job_expired")
        return view

    async def page(self, query: JobQuery) -> JobPage:
        self.queries.append(query)
        found = [view for view in self.views.values() if query.owner in (None, view.owner)]
        return JobPage(jobs=tuple(found[: query.limit]), next="more" if query.limit == 1 else None)

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[JobEvent]:
        await self.get(job_id)
        while True:
            async with self._changed:
                await self._changed.wait_for(
                    lambda seen=after: (
                        len(self.log[job_id]) > seen or self.views[job_id].status.final
                    )
                )
            for event in self.log[job_id][after:]:
                after = event.seq
                yield event
                if self.script.cut_events:
                    self.script.cut_events = False
                    return
            if self.views[job_id].status.final and after == len(self.log[job_id]):
                return

    async def cancel(self, job_id: str, owner: str | None = None) -> JobView:
        view = await self.get(job_id, owner)
        self.cancelled.append(job_id)
        if not view.status.final and self.stops_at_once:
            await self.stop(job_id)
        return self.views[job_id]

    async def remove(self, job_id: str, owner: str | None = None) -> JobView:
        ended = (await self.get(job_id, owner)).status.final
        view = await self.cancel(job_id, owner)
        if ended:
            self.removed.add(job_id)
        if view.status.final:
            self.storage.delete(job_id)
        return view

    async def stop(self, job_id: str) -> None:
        """End a job as cancelled."""
        self._set(job_id, status=JobStatus.CANCELLED)
        await self._happen(job_id, "cancelled", {})

    async def use_key(self, owner: str, per_minute: int) -> KeyAllowance:
        if self.usage is None:
            return KeyAllowance(allowed=True, limit=per_minute, remaining=per_minute, reset_s=60)
        return self.usage.take(owner, per_minute)

    async def state(self) -> ServiceState:
        return ServiceState(
            mode=self.mode,
            stages=self.stages,
            queued=0,
            running=0,
            seconds_by_stage=self.seconds,
        )

    async def _run(self, job_id: str) -> None:
        self._set(job_id, status=JobStatus.RUNNING, stage="stage1", attempt=1, step=25, steps=50)
        await self._happen(job_id, "step", {"stage": "stage1", "step": 25, "steps": 50})
        if self.script.hold is not None:
            await self.script.hold.wait()
        if self.views[job_id].status.final:
            return
        failure = self.script.failure
        if self.script.prepare is not None:
            request = next(one for one in self.requests if one.job_id == job_id)
            try:
                self.script.prepare(self.storage.read(request.input_path))
            except SyncHumanError as error:
                failure = failure_of(error)
        if failure is not None:
            self._set(job_id, status=JobStatus.FAILED, failure=failure)
            await self._happen(job_id, "failed", {})
            return
        self._finish(job_id)
        await self._happen(job_id, "result", {})

    def _finish(self, job_id: str) -> None:
        mode = self.views[job_id].mode
        complete = mode is not Mode.STAGE1_ONLY and self.stages["stage2"].available
        names = [f"stage1/{name}" for name in [*PICTURES, "input.png"]]
        names += (
            ["stage2/output.glb", "stage2/output_mesh.ply"] if complete else ["stage1/preview.glb"]
        )
        for name in names:
            self.storage.write(f"{job_id}/1/{name}", f"{name} of {job_id}".encode())
        self.storage.write(f"{job_id}/1/manifest.json", json.dumps({"job_id": job_id}).encode())
        self.storage.publish(job_id, f"{job_id}/1")
        self._set(
            job_id,
            status=JobStatus.SUCCEEDED,
            finished_at=1_700_000_060.0,
            files={name: f"{job_id}/1/{name}" for name in [*names, "manifest.json"]},
            stage1=StageReport(
                status="completed",
                directory=f"{job_id}/1/stage1",
                files=tuple(name[7:] for name in names if name.startswith("stage1/")),
            ),
            stage2=StageReport(
                status="completed",
                directory=f"{job_id}/1/stage2",
                files=("output.glb", "output_mesh.ply"),
            )
            if complete
            else StageReport(status="skipped", reason=self.stages["stage2"].reason or "not asked"),
        )

    def _set(self, job_id: str, **values: Any) -> None:
        self.views[job_id] = self.views[job_id].model_copy(update=values)

    async def _happen(self, job_id: str, kind: str, body: dict[str, Any]) -> None:
        log = self.log[job_id]
        log.append(JobEvent(seq=len(log) + 1, time=time.time(), kind=kind, body=body))
        async with self._changed:
            self._changed.notify_all()
