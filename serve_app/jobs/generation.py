"""The work of a job that generates: a picture through the stages.

    Preprocess -> Stage 1 -> its files and its result stored -> Stage 2, or the preview -> finish

A retry goes on from the stored Stage 1 result where there is one. What happens when Stage 2 can
not run is the mode's business: ``official`` fails the job, ``graceful-fallback`` hands over Stage 1
with a preview and the reason, ``stage1-only`` never asks.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import TYPE_CHECKING

from deployments.contracts import Asset, Mode, MultiviewResult, PreparedImage
from deployments.errors import Cancelled, ServiceError, StageUnavailable, SyncHumanError
from deployments.stage_report import log_fields
from serve_app.jobs.artifacts import unpack_multiview
from serve_app.jobs.outcome import final_error
from serve_app.jobs.protocol import StageReport
from serve_app.jobs.stages import StageFailed, StageLost, may_pass

if TYPE_CHECKING:
    from serve_app.jobs.runner import JobRun

log = logging.getLogger("ray.serve")


async def generate(run: JobRun) -> None:
    """Try once, to the job's success."""
    picture = await run.stored(run.room.storage.read, run.claim.input_path)
    prepared = await _prepared(run, picture)
    multiview = await _multiview(run, prepared)
    if run.claim.mode is Mode.STAGE1_ONLY:
        reason = "the job's mode is stage1-only"
        run.outcome.stage2 = StageReport(status="skipped", reason=reason)
    else:
        await _asset(run, prepared, multiview)
    if run.outcome.stage2 is None or run.outcome.stage2.status != "completed":
        await _preview(run, multiview)
    await run.succeed(hashlib.sha256(picture).hexdigest())


async def _prepared(run: JobRun, picture: bytes) -> PreparedImage:
    """The prepared picture. Not an attempt: nothing scarce was used when it fails."""
    for left in reversed(range(run.claim.max_attempts)):
        try:
            prepared = await run.call(run.room.stages.preprocess, picture)
            break
        except (StageLost, StageFailed) as problem:
            if not left or not may_pass(problem):
                raise final_error("preprocess", problem, run.claim.max_attempts) from problem
    assert isinstance(prepared, PreparedImage)
    run.outcome.warnings = prepared.warnings
    return prepared


async def _multiview(run: JobRun, prepared: PreparedImage) -> MultiviewResult:
    """Stage 1's result: the stored one, or a new one, which is stored at once."""
    multiview = await _stored_multiview(run)
    if multiview is None:
        try:
            caller = run.room.stages.stage1
            multiview = await run.call_counted(caller, prepared, run.options)
        except (StageLost, StageFailed) as problem:
            run.try_again("stage1", problem)
            raise final_error("stage1", problem, run.attempt) from problem
    assert isinstance(multiview, MultiviewResult)
    place = await run.stored(
        run.folder.write_stage1, prepared, multiview, with_input=run.claim.keep_input
    )
    run.outcome.timings["stage1"] = dict(multiview.timings)
    run.outcome.stage1 = run.completed("stage1")
    await run.note(
        "stage",
        {"stage": "stage1", "state": "completed"},
        stage1_result=place,
        stage1=run.outcome.stage1.model_dump(mode="json"),
        seconds=run.outcome.seconds,
    )
    return multiview


async def _stored_multiview(run: JobRun) -> MultiviewResult | None:
    """What an earlier attempt stored. A damaged result is as good as none: it is made again."""
    if run.claim.stage1_result is None:
        return None
    try:
        data = await run.stored(run.room.storage.read, run.claim.stage1_result)
        return await asyncio.to_thread(unpack_multiview, data)
    except ServiceError as error:
        if error.code not in ("artifact_damaged", "not_found"):
            raise
        log.warning("Stage 1 runs again: %s", error.message, extra=log_fields(job_id=run.claim.job))
        return None


async def _asset(run: JobRun, prepared: PreparedImage, multiview: MultiviewResult) -> None:
    """Stage 2, or what the mode makes of its absence."""
    try:
        asset = await _stage2(run, prepared, multiview)
    except SyncHumanError as error:
        stages_own = not isinstance(error, Cancelled | ServiceError)
        if run.claim.mode is not Mode.GRACEFUL_FALLBACK or not stages_own:
            raise
        status = "skipped" if isinstance(error, StageUnavailable) else "failed"
        reason = str(error.detail.get("reason") or error.message)
        log.warning(
            "job %s falls back to Stage 1: %s",
            run.claim.job,
            reason,
            extra=log_fields(job_id=run.claim.job),
        )
        run.observer.fell_back(error)
        run.outcome.stage2 = StageReport(status=status, reason=reason)
        await run.note("stage", {"stage": "stage2", "state": status, "reason": reason})
        return
    place = await run.stored(run.folder.write_stage2, asset, with_surface=run.room.live().exports)
    run.outcome.timings["stage2"] = dict(asset.timings)
    run.outcome.statistics = asset.statistics
    run.outcome.stage2 = run.completed("stage2")
    await run.note("stage", {"stage": "stage2", "state": "completed"}, stage2_result=place)


async def _stage2(run: JobRun, prepared: PreparedImage, multiview: MultiviewResult) -> Asset:
    caller = run.room.stages.stage2
    if caller is None:
        reason = "this service was started without Stage 2"
        raise StageUnavailable(
            f"stage2 can not run: {reason}",
            code="stage2_unavailable",
            reason=reason,
            state="absent",
        )
    try:
        asset = await run.call_counted(caller, prepared, multiview, run.options)
    except (StageLost, StageFailed) as problem:
        run.try_again("stage2", problem)
        raise final_error("stage2", problem, run.attempt) from problem
    assert isinstance(asset, Asset)
    return asset


async def _preview(run: JobRun, multiview: MultiviewResult) -> None:
    """The voxels as a textured GLB. Stage 1's pictures are worth handing over without it."""
    try:
        glb = await run.call(run.room.stages.preview, multiview, run.options)
    except (StageLost, StageFailed, StageUnavailable) as problem:
        run.outcome.warnings += (f"there is no preview.glb: {problem}",)
        return
    await run.stored(run.folder.write, "stage1/preview.glb", glb)
    run.outcome.stage1 = run.completed("stage1")
