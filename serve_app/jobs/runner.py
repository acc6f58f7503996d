"""One job from its claim to its end (serving.md section 4).

What the work is depends on the job's kind: generation.py or exporting.py. Around it, the same for
all: a stage that dies, or fails in a way that may pass, is tried again under a new fence until the
job has begun ``max_attempts`` times; every event goes to the store; whatever happens, the job ends
or is given back.

Events that a job leaves: ``queued``, ``stage`` (``state`` waiting, running, completed,
skipped or failed), ``started`` (an attempt), ``step``, ``retry``, and one of ``result``, ``failed``
and ``cancelled`` at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from deployments.contracts import Mode
from deployments.errors import Cancelled, ServiceError, SyncHumanError
from deployments.messages import Step, WorkOrder
from deployments.stage_report import log_fields
from serve_app.jobs.artifacts import ArtifactFolder
from serve_app.jobs.claims import Claim, ClaimStore, FenceLost
from serve_app.jobs.exporting import export
from serve_app.jobs.generation import generate
from serve_app.jobs.observer import JobObserver
from serve_app.jobs.outcome import Outcome, failure_of
from serve_app.jobs.protocol import JobKind, JobStatus, StageReport, StageState
from serve_app.jobs.stages import Patience, StageCaller, StageFailed, StageLost, may_pass
from serve_app.jobs.waits import allowed_wait
from serve_app.manifest import NAME as MANIFEST
from serve_app.options import options_from_json
from serve_app.settings import LiveArgs
from serve_app.storage import Storage

log = logging.getLogger("ray.serve")

ParamsT = ParamSpec("ParamsT")
ResultT = TypeVar("ResultT")

STORE_AWAY_PAUSES_S = (0.25, 0.5, 1.0, 2.0, 4.0)
BEFORE_RETRY_S = 0.2


@dataclass(frozen=True)
class Stages:
    """The stages as the runner calls them; it can not tell how their handles were made."""

    preprocess: StageCaller
    stage1: StageCaller
    stage2: StageCaller | None
    preview: StageCaller
    export: StageCaller


@dataclass(frozen=True)
class RunnerRoom:
    """What every run needs."""

    claims: ClaimStore
    storage: Storage
    stages: Stages
    state_of: Callable[[str], Awaitable[StageState]]  # the registry's word on a stage
    live: Callable[[], LiveArgs]  # the settings of this moment
    lease_s: float  # told to the stages with every order
    changed: Callable[[str], None]  # called after every event, to wake those who watch the job
    observe: Callable[[Claim], JobObserver] = JobObserver


class _TryAgain(Exception):  # noqa: N818
    """A run of a stage came to nothing, and the job may begin once more."""

    def __init__(self, stage: str, cause: Exception) -> None:
        super().__init__(f"{stage}: {cause}")
        self.stage = stage
        self.cause = cause


class JobRun:
    """One claimed job on its way. ``claim`` is replaced when the fence is raised for a retry.

    :meth:`run`, :meth:`end_cancelled` and :meth:`release` are the room's; the rest is what the work
    of either kind is made with.
    """

    def __init__(self, room: RunnerRoom, claim: Claim) -> None:
        self.room = room
        self.outcome = Outcome(seconds=dict(claim.seconds))
        self.observer = room.observe(claim)
        self._take(claim)

    def _take(self, claim: Claim) -> None:
        self.claim = claim
        self.options = options_from_json(claim.options)
        self.folder = ArtifactFolder(self.room.storage, claim.job, claim.fence)
        self.attempt = claim.attempt
        self._counted = False  # whether this fence has begun an attempt

    async def run(self) -> None:
        """Bring the job to its end. Returns quietly when it was taken over meanwhile."""
        self.observer.begin()
        try:
            try:
                while not await self._done_in_one():
                    await asyncio.sleep(BEFORE_RETRY_S)
            except FenceLost:
                raise
            except Exception as error:
                await self._end_badly(error)
        except FenceLost as lost:
            self.observer.ended("lost")
            log.info("%s", lost, extra=log_fields(job_id=self.claim.job))

    async def end_cancelled(self) -> None:
        """End the job, whose run somebody has cancelled."""
        try:
            await self._end_badly(Cancelled())
        except FenceLost as lost:
            self.observer.ended("lost")
            log.info("%s", lost, extra=log_fields(job_id=self.claim.job))

    async def release(self) -> None:
        """Give the job back for another runner."""
        with contextlib.suppress(FenceLost):
            await self.stored(self.room.claims.release, self.claim.job, self.claim.fence)
        self.observer.ended("released")

    async def _done_in_one(self) -> bool:
        """Try once. False: try again, under a new fence."""
        try:
            work = export if self.claim.kind is JobKind.EXPORT else generate
            await work(self)
            return True
        except _TryAgain as again:
            log.warning(
                "job %s tries again: %s",
                self.claim.job,
                again,
                extra=log_fields(job_id=self.claim.job),
            )
            self.observer.retried(again.stage, again.cause)
            body = {"stage": again.stage, "cause": str(again.cause), "attempt": self.attempt}
            await self.note("retry", body)
            claims = self.room.claims
            self._take(await self.stored(claims.take_again, self.claim.job, self.claim.fence))
            return False

    async def call_counted(self, caller: StageCaller, *inputs: Any) -> Any:
        """Call a stage whose start is an attempt, unless the job has used them all up."""
        if not self._counted and self.attempt >= self.claim.max_attempts:
            raise StageLost(f"the job was begun {self.attempt} times and never ended")
        return await self.call(caller, *inputs, counted=True)

    async def call(self, caller: StageCaller, *inputs: Any, counted: bool = False) -> Any:
        claim, name = self.claim, caller.name
        asked = time.monotonic()

        async def started() -> None:
            self.observer.waited(name, time.monotonic() - asked)
            if counted:
                self.attempt = await self.stored(
                    self.room.claims.started, claim.job, claim.fence, name
                )
                self._counted = True
            await self.note("stage", {"stage": name, "state": "running"})

        async def stepped(step: Step) -> None:
            at = step.progress
            body = {"stage": name, "step": at.step, "steps": at.steps, "message": at.message}
            await self.note("step", body, step=at.step, steps=at.steps)

        async def state() -> StageState:
            try:
                return await self.room.state_of(name)
            except ServiceError as error:  # a database that is away says nothing about a stage
                return StageState(state="unknown", reason=error.message)

        place = {"stage": name, "step": 0, "steps": 0}
        await self.note("stage", {"stage": name, "state": "waiting"}, **place)
        finished = await caller.call(
            self._order(),
            *inputs,
            patience=Patience(
                state, lambda seen: allowed_wait(name, seen, claim.mode, self.room.live())
            ),
            on_started=started,
            on_step=stepped,
        )
        self.outcome.seconds[name] = finished.seconds
        self.outcome.checkpoint = finished.checkpoint or self.outcome.checkpoint
        self.outcome.backends.update(finished.backends)
        return finished.value

    def _order(self) -> WorkOrder:
        claim = self.claim
        return WorkOrder(
            claim.job,
            claim.fence,
            self.room.lease_s,
            attempt=self.attempt + (not self._counted),
            request_id=claim.request_id,
            traceparent=self.observer.traceparent,
        )

    def try_again(self, stage: str, problem: StageLost | StageFailed) -> None:
        """Leave the work for another try, when the problem may pass and attempts are left."""
        if may_pass(problem) and self.attempt < self.claim.max_attempts:
            raise _TryAgain(stage, problem) from problem

    def completed(self, stage: str) -> StageReport:
        return StageReport(
            status="completed",
            directory=f"{self.folder.path}/{stage}",
            files=self.folder.names(stage),
        )

    async def succeed(self, input_sha256: str) -> None:
        """Write the manifest and end the job; from here on its files are seen."""
        outcome, folder = self.outcome, self.folder
        manifest = outcome.manifest(folder, self.options, input_sha256, self.claim.parent_id)
        await self.stored(folder.write, MANIFEST, manifest)
        reports = {"stage1": outcome.stage1, "stage2": outcome.stage2}
        given = {name: report for name, report in reports.items() if report is not None}
        await self.stored(
            self.room.claims.finish,
            self.claim.job,
            self.claim.fence,
            JobStatus.SUCCEEDED,
            ("result", {name: report.status for name, report in given.items()}),
            **{name: report.model_dump(mode="json") for name, report in given.items()},
            files=folder.files,
            warnings=list(outcome.warnings),
            seconds=outcome.seconds,
        )
        try:  # the job is done either way: its row names every file
            await asyncio.to_thread(self.room.storage.publish, self.claim.job, folder.path)
        except ServiceError as error:
            log.warning("%s", error, extra=log_fields(job_id=self.claim.job))
        fell_back = (
            self.claim.kind is JobKind.GENERATE
            and self.claim.mode is Mode.GRACEFUL_FALLBACK
            and (outcome.stage2 is None or outcome.stage2.status != "completed")
        )
        self.observer.ended("fallback" if fell_back else "succeeded")
        self.room.changed(self.claim.job)  # whoever waited finds the folder that the answer names

    async def _end_badly(self, error: Exception) -> None:
        claim = self.claim
        event: tuple[str, dict[str, Any]]
        if isinstance(error, Cancelled):
            status, event, values = JobStatus.CANCELLED, ("cancelled", {}), {}
        else:
            if not isinstance(error, SyncHumanError):
                log.error(
                    "job %s failed", claim.job, exc_info=error, extra=log_fields(job_id=claim.job)
                )
            failure = failure_of(error).model_dump(mode="json")
            status, event, values = JobStatus.FAILED, ("failed", failure), {"failure": failure}
        finish = self.room.claims.finish
        await self.stored(finish, claim.job, claim.fence, status, event, **values)
        self.observer.ended(status.value, event[1].get("code"))
        self.room.changed(claim.job)

    async def note(self, kind: str, body: dict[str, Any], **values: Any) -> None:
        """Write an event; a job whose cancellation was asked for goes no further."""
        note = self.room.claims.note
        cancel = await self.stored(note, self.claim.job, self.claim.fence, kind, body, **values)
        self.room.changed(self.claim.job)
        if cancel:
            raise Cancelled

    async def stored(
        self, call: Callable[ParamsT, ResultT], *args: ParamsT.args, **kwargs: ParamsT.kwargs
    ) -> ResultT:
        """Call a store in a thread. One that is away for seconds costs no finished work."""
        for pause in STORE_AWAY_PAUSES_S:
            try:
                return await asyncio.to_thread(call, *args, **kwargs)
            except ServiceError as error:
                if error.code not in ("store_unavailable", "storage_unavailable"):
                    raise
                log.warning("%s", error, extra=log_fields(job_id=self.claim.job))
            await asyncio.sleep(pause)
        return await asyncio.to_thread(call, *args, **kwargs)
