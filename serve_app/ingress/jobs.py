"""Jobs over HTTP: submit without waiting, list, look, export, cancel.

Watching is watching.py, fetching results.py.
"""

from __future__ import annotations

import base64
import binascii
from datetime import datetime, timezone
from typing import Annotated, TypeVar

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError

from deployments.errors import InputError
from serve_app.ingress.answers import job_answer
from serve_app.ingress.generate import accepted
from serve_app.ingress.intake import Picture, check_picture, take_picture
from serve_app.ingress.own_job import JobId, OwnJob
from serve_app.ingress.problems import owner_of, problem_responses
from serve_app.ingress.room import Room, TheRoom
from serve_app.ingress.schemas import ExportJson, GenerateForm, JobAnswer, JobJson, JobList
from serve_app.ingress.submission import Sender, submit, submit_export
from serve_app.ingress.watching import remaining
from serve_app.jobs.protocol import JobQuery, JobStatus

ModelT = TypeVar("ModelT", bound=BaseModel)

MOST_A_PAGE = 100

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
IdempotencyKey = Annotated[str | None, Header(description="the same key finds the same job")]


@router.post(
    "",
    summary="Submit without waiting",
    status_code=202,
    response_model=JobAnswer,
    responses=problem_responses(400, 401, 409, 413, 422, 429, 503),
    openapi_extra=BODY,
)
async def create(
    request: Request, room: TheRoom, idempotency_key: IdempotencyKey = None
) -> Response:
    """The fields of `POST /generate` as a form, or JSON with `image_url` or `image_base64`."""
    asked: GenerateForm | JobJson
    with room.intake():
        if request.headers.get("content-type", "").startswith("application/json"):
            asked = body = _parsed(JobJson, await _json(request))
            options = asked.options.resolve(room.settings)
            picture = await _json_picture(body, room)
        else:
            async with request.form() as fields:
                values: dict[str, object] = dict(fields)
                for name in ("formats", "webhook_events"):
                    if name in fields:
                        values[name] = fields.getlist(name)
                asked = form = _parsed(GenerateForm, values)
                options = asked.options.resolve(room.settings)
                picture = await take_picture(form.image, form.image_url, room)
        request.state.mode = options.mode.value
        view = await submit(picture, options, asked, room, Sender.of(request, idempotency_key))
    return accepted(view, room)


@router.get("", summary="Own jobs, newest first", responses=problem_responses(400, 401, 422, 503))
async def list_own(
    request: Request,
    room: TheRoom,
    status: Annotated[
        list[JobStatus] | None, Query(description="only jobs in these states; repeat it")
    ] = None,
    created_after: Annotated[
        datetime | None, Query(description="from this time on: ISO 8601, or seconds since 1970")
    ] = None,
    created_before: Annotated[datetime | None, Query(description="before this time")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_A_PAGE, description="jobs a page")] = 20,
    cursor: Annotated[
        str | None, Query(max_length=500, description="next_cursor of the page before")
    ] = None,
) -> JobList:
    """With API keys: the jobs of the key that asks. Without: all. Removed jobs are left out."""
    page = await room.service.page(
        JobQuery(
            owner=owner_of(request),
            statuses=tuple(status or ()),
            created_after=_seconds(created_after),
            created_before=_seconds(created_before),
            cursor=cursor,
            limit=limit,
        )
    )
    return JobList(jobs=[job_answer(view, room) for view in page.jobs], next_cursor=page.next)


@router.get("/{job_id}", summary="State and progress", responses=problem_responses(404, 410, 503))
async def look(job: OwnJob, room: TheRoom) -> JobAnswer:
    """A job as it is now."""
    estimate = None if job.status.final else remaining(job, await room.service.state())
    return job_answer(job, room, estimate)


@router.post(
    "/{job_id}/exports",
    summary="Other files from the same result",
    status_code=202,
    response_model=JobAnswer,
    responses=problem_responses(400, 401, 404, 409, 410, 422, 429, 503),
)
async def export(
    job: OwnJob,
    body: ExportJson,
    request: Request,
    room: TheRoom,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Another texture size, face count or format, in seconds: nothing is sampled again. The export
    is a job of its own, with the options of its parent where the body names none."""
    request.state.mode = "export"
    view = await submit_export(job, body, room, Sender.of(request, idempotency_key))
    return accepted(view, room)


@router.delete(
    "/{job_id}",
    summary="Cancel and remove",
    responses=problem_responses(404, 410, 503),
)
async def remove(job_id: JobId, request: Request, room: TheRoom) -> JSONResponse:
    """200: ended and removed. 202: it stops at its next step, and its files go when it has."""
    view = await room.service.remove(job_id, owner_of(request))
    body = job_answer(view, room).model_dump(mode="json", exclude_none=True)
    return JSONResponse(body, status_code=200 if view.status.final else 202)


def _seconds(time: datetime | None) -> float | None:
    if time is None:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()


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
