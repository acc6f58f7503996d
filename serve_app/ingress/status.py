"""``/``, ``/health`` and ``/info``: answered from the registry, never by asking a stage."""

from __future__ import annotations

import anyio
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from deployments.contracts import Mode
from deployments.errors import ServiceError
from serve_app.ingress.page import welcome_page
from serve_app.ingress.problems import problem_responses
from serve_app.ingress.room import Room, TheRoom
from serve_app.ingress.schemas import Gpu, Health, Info, Limits, StageInfo, TimeEstimates
from serve_app.jobs.protocol import ServiceState, StageState
from serve_app.settings import STAGE1_STEPS, STAGE2_STEPS

SERVICE = "SyncHuman Unified API"
VERSION = "2.0.0"  # of the API, as unified_api.md numbers it
HEALTH_WAIT_S = 2.0  # a registry that does not answer within this is as good as away

MODE_DESCRIPTIONS = {
    Mode.OFFICIAL: "Stage 1 and Stage 2: a textured GLB, or an error that says why not",
    Mode.STAGE1_ONLY: "Stage 1 only: five colour views, five normal maps and a preview mesh",
    Mode.GRACEFUL_FALLBACK: "a textured GLB where Stage 2 can run, Stage 1's result otherwise",
}
ENDPOINTS = {
    "POST /generate": "a picture in, the result out (JSON, or a ZIP with download=true)",
    "POST /jobs": "the same without waiting: 202 and a job to watch",
    "GET /jobs/{job_id}": "state and progress; /events, /files/{path}, /result.zip below it",
    "DELETE /jobs/{job_id}": "cancel a job and remove its files",
    "GET /health": "can the service work",
    "GET /info": "mode, stages, devices, limits, time estimates",
    "GET /docs": "this API in detail; /openapi.json for programs",
}
UNKNOWN = StageState(state="unknown", reason="the service's registry does not answer")

router = APIRouter(tags=["service"])


@router.get("/", summary="What this API is")
async def root(request: Request, room: TheRoom) -> Response:
    """JSON for programs, a page with an upload form for browsers."""
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(welcome_page(room.settings.mode, ENDPOINTS))
    return JSONResponse(
        {
            "service": SERVICE,
            "version": VERSION,
            "description": "One photo of a person in, a textured 3D human (GLB) out",
            "mode": room.settings.mode.value,
            "endpoints": ENDPOINTS,
            "example": "curl -X POST http://localhost:8000/generate "
            "-F image=@image.png -F download=true --output result.zip",
            "links": {
                "docs": "/docs",
                "openapi": "/openapi.json",
                "health": "/health",
                "info": "/info",
            },
        }
    )


@router.get(
    "/health",
    summary="Can the service work",
    responses={503: {"model": Health, "description": "The mode's stages can not run now"}},
)
async def health(room: TheRoom, response: Response) -> Health:
    """200 while requests in the service's mode can be served, 503 while not."""
    settings = room.settings
    state = await _state(room)
    stage1 = state is not None and _stage(state, "stage1").available
    wants_stage2 = settings.mode is not Mode.STAGE1_ONLY
    stage2 = state is not None and wants_stage2 and _stage(state, "stage2").available
    works = stage1 and (stage2 or settings.mode is not Mode.OFFICIAL)
    response.status_code = 200 if works else 503
    response.headers["Cache-Control"] = "no-store"
    return Health(
        status="ok" if works else "unavailable",
        service=SERVICE,
        version=VERSION,
        mode=settings.mode,
        stage1_available=stage1,
        stage2_available=stage2,
        stage1_steps=settings.stage1_steps,
        stage2_steps=settings.stage2_steps,
    )


@router.get("/info", summary="Configuration and abilities", responses=problem_responses(503))
async def info(room: TheRoom) -> Info:
    """Mode, stages, devices and memory of the replicas, limits, measured times."""
    state = await _state(room)
    if state is None:
        raise ServiceError(
            f"{UNKNOWN.reason}. It is starting or being restarted: ask again in a moment",
            code="store_unavailable",
        )
    settings = room.settings
    stage1, stage2 = _stage(state, "stage1"), _stage(state, "stage2")
    if settings.mode is Mode.STAGE1_ONLY:
        stage2 = StageState(state="absent", reason="the service's mode is stage1-only")
    return Info(
        service=SERVICE,
        version=VERSION,
        mode=settings.mode,
        description=MODE_DESCRIPTIONS[settings.mode],
        stage1=_stage_info(stage1, settings.stage1_steps, STAGE1_STEPS),
        stage2=_stage_info(stage2, settings.stage2_steps, STAGE2_STEPS),
        gpus=[gpu for stage in (stage1, stage2) for gpu in _gpus(stage)],
        queued=state.queued,
        running=state.running,
        time_estimates=_estimates(state, with_stage2=stage2.available),
        limits=Limits(
            max_upload_mb=settings.max_upload_mb,
            max_megapixels=settings.max_megapixels,
            min_side_px=settings.min_side_px,
            max_texture_size=settings.max_texture_size,
            formats=["PNG", "JPEG", "WebP"],
        ),
    )


async def _state(room: Room) -> ServiceState | None:
    """The registry's word, or None when it does not come in time."""
    try:
        with anyio.fail_after(HEALTH_WAIT_S):
            return await room.service.state()
    except (TimeoutError, ServiceError):
        return None


def _stage(state: ServiceState, name: str) -> StageState:
    return state.stages.get(name, StageState(state="absent", reason="not part of this service"))


def _stage_info(stage: StageState, steps: int, steps_range: tuple[int, int]) -> StageInfo:
    able = [replica for replica in stage.replicas if replica.reason is None]
    newest = max(able, key=lambda replica: replica.seen_at, default=None)
    return StageInfo(
        available=stage.available,
        state=stage.state,
        reason=stage.reason,
        default_steps=steps,
        steps_range=steps_range,
        replicas=len(stage.replicas),
        checkpoint=newest.checkpoint if newest else None,
        backends=newest.backends if newest else {},
        step_seconds=newest.step_seconds if newest else None,
    )


def _gpus(stage: StageState) -> list[Gpu]:
    return [
        Gpu(
            stage=replica.stage,
            replica=replica.replica,
            device=replica.device,
            memory_total_gb=_gb(replica.memory_total),
            memory_used_gb=_gb(replica.memory_used),
            memory_available_gb=_gb(
                None
                if replica.memory_total is None or replica.memory_used is None
                else replica.memory_total - replica.memory_used
            ),
            busy=replica.busy,
        )
        for replica in stage.replicas
    ]


def _gb(size: int | None) -> float | None:
    return None if size is None else round(size / 1e9, 2)


def _estimates(state: ServiceState, *, with_stage2: bool) -> TimeEstimates:
    seconds = state.seconds_by_stage
    wanted = ("preprocess", "stage1", "stage2" if with_stage2 else "preview")
    measured = all(seconds.get(name) is not None for name in wanted[1:2] + wanted[2:])
    total = sum(seconds.get(name, 0.0) for name in wanted) if measured else None
    return TimeEstimates(
        stage1_seconds=seconds.get("stage1"),
        stage2_seconds=seconds.get("stage2"),
        total_seconds=total,
    )
