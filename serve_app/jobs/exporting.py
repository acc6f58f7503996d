"""The work of an export: other files from what a finished job has stored, nothing sampled.

    its parent's manifest, Stage 1 result and surface -> finishing -> finish

A parent without Stage 2 has no surface; then its preview is made again. Both run where the previews
do, on a CPU.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from deployments.contracts import Asset, MultiviewResult
from deployments.errors import ServiceError
from serve_app.jobs.artifacts import unpack_multiview, unpack_surface
from serve_app.jobs.outcome import final_error
from serve_app.jobs.stages import StageCaller, StageFailed, StageLost

if TYPE_CHECKING:
    from serve_app.jobs.runner import JobRun


async def export(run: JobRun) -> None:
    """Try once, to the job's success."""
    claim = run.claim
    assert claim.stage1_result is not None  # export_source.py sees to it
    manifest = json.loads(await _read(run, claim.input_path))
    multiview = await asyncio.to_thread(unpack_multiview, await _read(run, claim.stage1_result))
    if claim.stage2_result is None:
        await _preview(run, multiview)
    else:
        await _asset(run, await _read(run, claim.stage2_result), multiview)
    run.outcome.checkpoint = manifest["checkpoint"]
    run.outcome.backends = manifest["backends"]
    await run.succeed(manifest["input_sha256"])


async def _asset(run: JobRun, stored: bytes, multiview: MultiviewResult) -> None:
    surface = await asyncio.to_thread(unpack_surface, stored)
    asset = await _called(run, run.room.stages.export, surface, multiview, run.options)
    assert isinstance(asset, Asset)
    await run.stored(run.folder.write_stage2, asset)
    run.outcome.timings["stage2"] = {f"finish.{part}": s for part, s in asset.timings.items()}
    run.outcome.statistics = asset.statistics
    run.outcome.stage2 = run.completed("stage2")


async def _preview(run: JobRun, multiview: MultiviewResult) -> None:
    glb = await _called(run, run.room.stages.preview, multiview, run.options)
    await run.stored(run.folder.write, "stage1/preview.glb", glb)
    run.outcome.stage1 = run.completed("stage1")


async def _called(run: JobRun, caller: StageCaller, *inputs: Any) -> Any:
    try:
        return await run.call_counted(caller, *inputs)
    except (StageLost, StageFailed) as problem:
        run.try_again("export", problem)
        raise final_error("export", problem, run.attempt) from problem


async def _read(run: JobRun, place: str) -> bytes:
    try:
        return await run.stored(run.room.storage.read, place)
    except ServiceError as error:
        if error.code != "not_found":
            raise
        raise ServiceError(
            f"job {run.claim.parent_id} was removed before this export of it was made. "
            "Send the picture again",
            code="job_expired",
        ) from error
