"""One job from its claim to its end (serving.md section 4).

    Preprocess -> Stage 1 -> its files and its result stored -> Stage 2, or the preview -> finish

A stage that dies, or fails in a way that may pass, is tried again under a new fence, from the
stored Stage 1 result where there is one, until the job has begun ``max_attempts`` times. What
happens when Stage 2 can not run is the mode's business: ``official`` fails the job,
``graceful-fallback`` hands over Stage 1 with a preview and the reason, ``stage1-only`` never asks.

Events that a job leaves: ``queued``, ``stage`` (``state`` waiting, running, completed,
skipped or failed), ``started`` (an attempt), ``step``, ``retry``, and one of ``result``, ``failed``
and ``cancelled`` at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from deployments.contracts import Asset, Mode, MultiviewResult, PreparedImage
from deployments.errors import (
    Cancelled,
    ServiceError,
    StageUnavailable,
    SyncHumanError,
)
from deployments.messages import Step, WorkOrder
from deployments.stage_report import log_fields
from serve_app.jobs.artifacts import ArtifactFolder, unpack_multiview
from serve_app.jobs.claims import Claim, ClaimStore, FenceLost
from serve_app.jobs.observer import JobObserver
from serve_app.jobs.outcome import Outcome, failure_of, final_error
from serve_app.jobs.protocol import JobStatus, StageReport, StageState
from serve_app.jobs.stages import Patience, StageCaller, StageFailed, StageLost
from serve_app.jobs.waits import allowed_wait
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
    """One claimed job on its way. ``claim`` is replaced when the fence is raised for a retry."""

    def __init__(self, room: RunnerRoom, claim: Claim) -> None:
        self._room = room
        self._outcome = Outcome(seconds=dict(claim.seconds))
        self._observer = room.observe(claim)
        self._take(claim)

    def _take(self, claim: Claim) -> None:
        self.claim = claim
        self._options = options_from_json(claim.options)
        self._folder = ArtifactFolder(self._room.storage, claim.job, claim.fence)
        self._attempt = claim.attempt
        self._counted = False  # whether this fence has begun an attempt

    async def run(self) -> None:
        """Bring the job to its end. Returns quietly when it was taken over meanwhile."""
        self._observer.begin()
        try:
            try:
                while not await self._done_in_one():
                    await asyncio.sleep(BEFORE_RETRY_S)
            except FenceLost:
                raise
            except Exception as error:
                await self._end_badly(error)
        except FenceLost as lost:
            self._observer.ended("lost")
            log.info("%s", lost, extra=log_fields(job_id=self.claim.job))

    async def end_cancelled(self) -> None:
        """End the job, whose run somebody has cancelled."""
        try:
            await self._end_badly(Cancelled())
        except FenceLost as lost:
            self._observer.ended("lost")
            log.info("%s", lost, extra=log_fields(job_id=self.claim.job))

    async def release(self) -> None:
        """Give the job back for another runner."""
        with contextlib.suppress(FenceLost):
            await self._stored(self._room.claims.release, self.claim.job, self.claim.fence)
        self._observer.ended("released")

    async def _done_in_one(self) -> bool:
        """Try once. False: try again, under a new fence."""
        try:
            await self._attempt_all()
            return True
        except _TryAgain as again:
            log.warning(
                "job %s tries again: %s",
                self.claim.job,
                again,
                extra=log_fields(job_id=self.claim.job),
            )
            self._observer.retried(again.stage, again.cause)
            body = {"stage": again.stage, "cause": str(again.cause), "attempt": self._attempt}
            await self._note("retry", body)
            claims = self._room.claims
            self._take(await self._stored(claims.take_again, self.claim.job, self.claim.fence))
            return False

    async def _attempt_all(self) -> None:
        picture = await self._stored(self._room.storage.read, self.claim.input_path)
        prepared = await self._prepared(picture)
        multiview = await self._multiview(prepared)
        if self.claim.mode is Mode.STAGE1_ONLY:
            reason = "the job's mode is stage1-only"
            self._outcome.stage2 = StageReport(status="skipped", reason=reason)
        else:
            await self._asset(prepared, multiview)
        if self._outcome.stage2 is None or self._outcome.stage2.status != "completed":
            await self._preview(multiview)
        await self._succeed(hashlib.sha256(picture).hexdigest())

    async def _prepared(self, picture: bytes) -> PreparedImage:
        """The prepared picture. Not an attempt: nothing scarce was used when it fails."""
        for left in reversed(range(self.claim.max_attempts)):
            try:
                prepared = await self._call(self._room.stages.preprocess, picture)
                break
            except (StageLost, StageFailed) as problem:
                if not left or not _may_pass(problem):
                    raise final_error("preprocess", problem, self.claim.max_attempts) from problem
        assert isinstance(prepared, PreparedImage)
        self._outcome.warnings = prepared.warnings
        return prepared

    async def _multiview(self, prepared: PreparedImage) -> MultiviewResult:
        """Stage 1's result: the stored one, or a new one, which is stored at once."""
        stored = self.claim.stage1_result
        if stored is None:
            try:
                caller = self._room.stages.stage1
                multiview = await self._call_counted(caller, prepared, self._options)
            except (StageLost, StageFailed) as problem:
                self._try_again("stage1", problem)
                raise final_error("stage1", problem, self._attempt) from problem
        else:
            data = await self._stored(self._room.storage.read, stored)
            multiview = await asyncio.to_thread(unpack_multiview, data)
        assert isinstance(multiview, MultiviewResult)
        place = await self._stored(self._folder.write_stage1, prepared, multiview)
        self._outcome.timings["stage1"] = dict(multiview.timings)
        self._outcome.stage1 = self._completed("stage1")
        await self._note(
            "stage",
            {"stage": "stage1", "state": "completed"},
            stage1_result=place,
            stage1=self._outcome.stage1.model_dump(mode="json"),
            seconds=self._outcome.seconds,
        )
        return multiview

    async def _asset(self, prepared: PreparedImage, multiview: MultiviewResult) -> None:
        """Stage 2, or what the mode makes of its absence."""
        try:
            asset = await self._stage2(prepared, multiview)
        except SyncHumanError as error:
            stages_own = not isinstance(error, Cancelled | ServiceError)
            if self.claim.mode is not Mode.GRACEFUL_FALLBACK or not stages_own:
                raise
            status = "skipped" if isinstance(error, StageUnavailable) else "failed"
            reason = str(error.detail.get("reason") or error.message)
            log.warning(
                "job %s falls back to Stage 1: %s",
                self.claim.job,
                reason,
                extra=log_fields(job_id=self.claim.job),
            )
            self._observer.fell_back(error)
            self._outcome.stage2 = StageReport(status=status, reason=reason)
            await self._note("stage", {"stage": "stage2", "state": status, "reason": reason})
            return
        await self._stored(self._folder.write_stage2, asset)
        self._outcome.timings["stage2"] = dict(asset.timings)
        self._outcome.statistics = asset.statistics
        self._outcome.stage2 = self._completed("stage2")
        await self._note("stage", {"stage": "stage2", "state": "completed"})

    async def _stage2(self, prepared: PreparedImage, multiview: MultiviewResult) -> Asset:
        caller = self._room.stages.stage2
        if caller is None:
            reason = "this service was started without Stage 2"
            raise StageUnavailable(
                f"stage2 can not run: {reason}",
                code="stage2_unavailable",
                reason=reason,
                state="absent",
            )
        try:
            asset = await self._call_counted(caller, prepared, multiview, self._options)
        except (StageLost, StageFailed) as problem:
            self._try_again("stage2", problem)
            raise final_error("stage2", problem, self._attempt) from problem
        assert isinstance(asset, Asset)
        return asset

    async def _preview(self, multiview: MultiviewResult) -> None:
        """The voxels as a textured GLB. Stage 1's pictures are worth handing over without it."""
        try:
            glb = await self._call(self._room.stages.preview, multiview, self._options)
        except (StageLost, StageFailed, StageUnavailable) as problem:
            self._outcome.warnings += (f"there is no preview.glb: {problem}",)
            return
        await self._stored(self._folder.write, "stage1/preview.glb", glb)
        self._outcome.stage1 = self._completed("stage1")

    async def _call_counted(self, caller: StageCaller, *inputs: Any) -> Any:
        """Call a stage whose start is an attempt, unless the job has used them all up."""
        if not self._counted and self._attempt >= self.claim.max_attempts:
            raise StageLost(f"the job was begun {self._attempt} times and never ended")
        return await self._call(caller, *inputs, counted=True)

    async def _call(self, caller: StageCaller, *inputs: Any, counted: bool = False) -> Any:
        claim, name = self.claim, caller.name
        asked = time.monotonic()

        async def started() -> None:
            self._observer.waited(name, time.monotonic() - asked)
            if counted:
                self._attempt = await self._stored(
                    self._room.claims.started, claim.job, claim.fence, name
                )
                self._counted = True
            await self._note("stage", {"stage": name, "state": "running"})

        async def stepped(step: Step) -> None:
            at = step.progress
            body = {"stage": name, "step": at.step, "steps": at.steps, "message": at.message}
            await self._note("step", body, step=at.step, steps=at.steps)

        async def state() -> StageState:
            return await self._room.state_of(name)

        place = {"stage": name, "step": 0, "steps": 0}
        await self._note("stage", {"stage": name, "state": "waiting"}, **place)
        finished = await caller.call(
            self._order(),
            *inputs,
            patience=Patience(
                state, lambda seen: allowed_wait(name, seen, claim.mode, self._room.live())
            ),
            on_started=started,
            on_step=stepped,
        )
        self._outcome.seconds[name] = finished.seconds
        self._outcome.checkpoint = finished.checkpoint or self._outcome.checkpoint
        self._outcome.backends.update(finished.backends)
        return finished.value

    def _order(self) -> WorkOrder:
        claim = self.claim
        return WorkOrder(
            claim.job,
            claim.fence,
            self._room.lease_s,
            attempt=self._attempt + (not self._counted),
            request_id=claim.request_id,
            traceparent=self._observer.traceparent,
        )

    def _try_again(self, stage: str, problem: StageLost | StageFailed) -> None:
        """:raises _TryAgain: when the problem may pass and the job has attempts left."""
        if _may_pass(problem) and self._attempt < self.claim.max_attempts:
            raise _TryAgain(stage, problem) from problem

    def _completed(self, stage: str) -> StageReport:
        return StageReport(
            status="completed",
            directory=f"{self._folder.path}/{stage}",
            files=self._folder.names(stage),
        )

    async def _succeed(self, input_sha256: str) -> None:
        outcome, folder = self._outcome, self._folder
        assert outcome.stage1 is not None
        assert outcome.stage2 is not None
        manifest = outcome.manifest(folder, self._options, input_sha256)
        await self._stored(folder.write, "manifest.json", manifest)
        await self._stored(
            self._room.claims.finish,
            self.claim.job,
            self.claim.fence,
            JobStatus.SUCCEEDED,
            ("result", {"stage1": outcome.stage1.status, "stage2": outcome.stage2.status}),
            stage1=outcome.stage1.model_dump(mode="json"),
            stage2=outcome.stage2.model_dump(mode="json"),
            files=folder.files,
            warnings=list(outcome.warnings),
            seconds=outcome.seconds,
        )
        try:  # the job is done either way: its row names every file
            await asyncio.to_thread(self._room.storage.publish, self.claim.job, folder.path)
        except ServiceError as error:
            log.warning("%s", error, extra=log_fields(job_id=self.claim.job))
        asked_for_more = self.claim.mode is Mode.GRACEFUL_FALLBACK
        complete = outcome.stage2.status == "completed" or not asked_for_more
        self._observer.ended("succeeded" if complete else "fallback")
        self._room.changed(self.claim.job)  # whoever waited finds the folder that the answer names

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
        finish = self._room.claims.finish
        await self._stored(finish, claim.job, claim.fence, status, event, **values)
        self._observer.ended(status.value, event[1].get("code"))
        self._room.changed(claim.job)

    async def _note(self, kind: str, body: dict[str, Any], **values: Any) -> None:
        """Write an event; a job whose cancellation was asked for goes no further."""
        note = self._room.claims.note
        cancel = await self._stored(note, self.claim.job, self.claim.fence, kind, body, **values)
        self._room.changed(self.claim.job)
        if cancel:
            raise Cancelled

    async def _stored(
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


def _may_pass(problem: StageLost | StageFailed) -> bool:
    return not isinstance(problem, StageFailed) or problem.failure.retryable
