"""Jobs over HTTP: submit without waiting, look, watch, fetch, cancel."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import logging
import mimetypes
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, BinaryIO, TypeVar

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ValidationError

from deployments.contracts import Mode
from deployments.errors import InputError, ServiceError, SyncHumanError
from serve_app.ingress.answers import files_or_expired, job_answer, zip_response
from serve_app.ingress.generate import accepted, finished_job
from serve_app.ingress.intake import Picture, check_picture, take_picture
from serve_app.ingress.problems import owner_of, problem_responses
from serve_app.ingress.room import Room, TheRoom
from serve_app.ingress.schemas import GenerateForm, JobAnswer, JobJson
from serve_app.ingress.submission import submit
from serve_app.jobs.protocol import JobEvent, JobStatus, JobView, ServiceState

ModelT = TypeVar("ModelT", bound=BaseModel)

log = logging.getLogger("ray.serve.synchuman.ingress")

KEEP_ALIVE_S = 10.0
PIECE = 1 << 20

JobId = Annotated[str, Path(description="the id of a job")]

router = APIRouter(prefix="/jobs", tags=["jobs"])

BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": {"$ref": "#/components/schemas/GenerateForm"}},
            "application/json": {"schema": {"$ref": "#/components/schemas/JobJson"}},
        },
    }
}


@router.post(
    "",
    summary="Submit without waiting",
    status_code=202,
    response_model=JobAnswer,
    responses=problem_responses(400, 401, 409, 413, 422, 429, 503),
    openapi_extra=BODY,
)
async def create(
    request: Request,
    room: TheRoom,
    idempotency_key: Annotated[
        str | None, Header(description="the same key finds the same job")
    ] = None,
) -> Response:
    """The fields of `POST /generate` as a form, or JSON with `image_url` or `image_base64`."""
    if request.headers.get("content-type", "").startswith("application/json"):
        body = _parsed(JobJson, await _json(request))
        options = body.options.resolve(room.settings)
        picture = await _json_picture(body, room)
    else:
        async with request.form() as fields:
            values: dict[str, object] = dict(fields)
            if "formats" in fields:
                values["formats"] = fields.getlist("formats")
            form = _parsed(GenerateForm, values)
            options = form.options.resolve(room.settings)
            picture = await take_picture(form.image, form.image_url, room)
    view = await submit(
        picture, options, room, idempotency_key=idempotency_key, owner=owner_of(request)
    )
    return accepted(view, room)


@router.get("/{job_id}", summary="State and progress", responses=problem_responses(404, 410, 503))
async def look(job_id: JobId, room: TheRoom) -> JobAnswer:
    """A job as it is now."""
    view = await room.service.get(job_id)
    estimate = None if view.status.final else remaining(view, await room.service.state())
    return job_answer(view, room, estimate)


@router.get(
    "/{job_id}/events",
    summary="Watch (server-sent events)",
    response_class=StreamingResponse,
    responses={
        200: {"description": "The job's events", "content": {"text/event-stream": {}}},
        **problem_responses(404, 410, 503),
    },
)
async def watch(
    job_id: JobId,
    room: TheRoom,
    last_event_id: Annotated[
        str | None, Header(description="go on after this event; EventSource sends it by itself")
    ] = None,
) -> StreamingResponse:
    """Every event from the beginning, or after `Last-Event-ID`; ends when the job has ended."""
    await room.service.get(job_id)  # an unknown job is a 404 and no empty stream
    after = int(last_event_id) if last_event_id and last_event_id.isdecimal() else 0
    return StreamingResponse(
        event_lines(room.service.events(job_id, after)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Job-Id": job_id},
    )


@router.get(
    "/{job_id}/result.zip",
    summary="The result as a ZIP",
    response_class=Response,
    responses={
        200: {"description": "The ZIP; ranges work", "content": {"application/zip": {}}},
        **problem_responses(404, 409, 410, 503),
    },
)
async def result(job_id: JobId, room: TheRoom) -> Response:
    """The ZIP of a job that succeeded."""
    return await zip_response(_succeeded(await room.service.get(job_id)), room)


@router.get(
    "/{job_id}/files/{path:path}",
    summary="One file of the result",
    response_class=Response,
    responses={
        200: {"description": "The file", "content": {"application/octet-stream": {}}},
        **problem_responses(404, 409, 410, 503),
    },
)
async def one_file(job_id: JobId, path: str, room: TheRoom) -> Response:
    """A file under its name in the ZIP, e.g. `stage2/output.glb`."""
    view = _succeeded(await room.service.get(job_id))
    place = view.files.get(path)
    if place is None:
        raise ServiceError(
            f"job {job_id} has no file {path!r}. GET /jobs/{job_id} lists what it has",
            code="not_found",
        )
    with files_or_expired(view):
        size = await asyncio.to_thread(room.storage.size, place)
        file = await asyncio.to_thread(room.storage.open, place)  # checked before a byte goes out
    name = path.rpartition("/")[2]
    kind = "model/gltf-binary" if name.endswith(".glb") else mimetypes.guess_type(name)[0]
    return StreamingResponse(
        _pieces(file),
        media_type=kind or "application/octet-stream",
        headers={
            "Content-Length": str(size),
            "Content-Disposition": f'inline; filename="{name}"',
            "ETag": f'"{view.id}-{view.attempt}"',
            "X-Job-Id": view.id,
        },
    )


@router.delete(
    "/{job_id}",
    summary="Cancel and remove",
    responses=problem_responses(404, 410, 503),
)
async def remove(job_id: JobId, room: TheRoom) -> JSONResponse:
    """200: ended and removed. 202: it stops at its next step, and its files go when it has."""
    view = await room.service.cancel(job_id)
    if view.status.final:
        await asyncio.to_thread(room.storage.delete, job_id)
    else:
        room.later(_remove_when_ended(job_id, room))
    body = job_answer(view, room).model_dump(mode="json", exclude_none=True)
    return JSONResponse(body, status_code=200 if view.status.final else 202)


async def _remove_when_ended(job_id: str, room: Room) -> None:
    try:
        await finished_job(job_id, room)
        await asyncio.to_thread(room.storage.delete, job_id)
    except SyncHumanError as error:
        log.warning("the files of job %s stay: %s", job_id, error.message)


async def event_lines(
    events: AsyncIterator[JobEvent], keep_alive_s: float = KEEP_ALIVE_S
) -> AsyncIterator[str]:
    """Events as lines of an event stream, with a comment whenever nothing came for a while."""
    upcoming = asyncio.ensure_future(anext(events))
    try:
        while True:
            await asyncio.wait({upcoming}, timeout=keep_alive_s)
            if not upcoming.done():
                yield ": still here\n\n"
                continue
            try:
                event = upcoming.result()
            except StopAsyncIteration:
                return
            body = json.dumps({**event.body, "time": event.time}, separators=(",", ":"))
            yield f"id: {event.seq}\nevent: {event.kind}\ndata: {body}\n\n"
            upcoming = asyncio.ensure_future(anext(events))
    finally:
        upcoming.cancel()
        with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
            await upcoming


def remaining(view: JobView, state: ServiceState) -> float | None:
    """Seconds to go, from the medians of recent jobs; None while nothing was measured."""
    seconds = state.seconds_by_stage
    last = "preview" if view.mode is Mode.STAGE1_ONLY else "stage2"
    order = [name for name in ("preprocess", "stage1", last) if name in seconds]
    if not order:
        return None
    if view.stage not in order:
        return sum(seconds[name] for name in order)
    here = order.index(view.stage)
    left = 1 - view.step / view.steps if view.steps else 1.0
    return seconds[view.stage] * left + sum(seconds[name] for name in order[here + 1 :])


def _succeeded(view: JobView) -> JobView:
    if view.status is JobStatus.SUCCEEDED:
        return view
    raise ServiceError(
        f"job {view.id} is {view.status.value}; only a job that succeeded has a result. "
        f"GET /jobs/{view.id} tells more",
        code="not_finished" if not view.status.final else "no_result",
    )


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """A file in pieces; Starlette runs this in a thread."""
    with file:
        while piece := file.read(PIECE):
            yield piece


def _parsed(model: type[ModelT], values: object) -> ModelT:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None


async def _json(request: Request) -> object:
    try:
        return await request.json()
    except ValueError:
        raise InputError("the body is not JSON. Send a JSON object or a form") from None


async def _json_picture(body: JobJson, room: Room) -> Picture:
    if body.image_base64 is None:
        return await take_picture(None, body.image_url, room)
    if body.image_url:
        raise InputError(
            "the request has both image_base64 and image_url; exactly one is used. "
            "Send one of them",
            code="image_conflict",
        )
    try:
        data = base64.b64decode(body.image_base64, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(
            "image_base64 is not base64. Send the picture's bytes in base64 without line breaks"
        ) from None
    return await check_picture(data, room)
