"""``POST /generate``: submit a job and wait for it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Any

from fastapi import APIRouter, Form, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from deployments.errors import SyncHumanError
from serve_app.ingress.answers import generate_answer, job_answer, zip_response
from serve_app.ingress.envelope import CLIENT_GONE
from serve_app.ingress.intake import take_picture
from serve_app.ingress.problems import (
    failure_response,
    problem_responses,
    request_id_of,
)
from serve_app.ingress.room import Room, TheRoom
from serve_app.ingress.schemas import GenerateAnswer, GenerateForm, JobAnswer
from serve_app.ingress.submission import Sender, submit
from serve_app.jobs.protocol import JobFailure, JobStatus, JobView

LOST_EVENTS_PAUSE_S = 0.5
CANCELLED = JobFailure(
    code="cancelled",
    message="the job was cancelled before it was done. Send the request again",
    kind="Cancelled",
)

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The finished job, or its ZIP with `download=true`",
        "model": GenerateAnswer,
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        "headers": {"X-Job-Id": {"schema": {"type": "string"}, "description": "the job's id"}},
    },
    202: {
        "description": "With `Prefer: respond-async`: the job, to be watched at `Location`",
        "model": JobAnswer,
    },
    **problem_responses(400, 401, 409, 410, 413, 422, 429, 500, 503),
}

router = APIRouter(tags=["generate"])


@router.post(
    "/generate",
    summary="A picture in, a 3D human out",
    response_model=GenerateAnswer,
    responses=RESPONSES,
)
async def generate(
    request: Request,
    room: TheRoom,
    form: Annotated[GenerateForm, Form(media_type="multipart/form-data")],
    download: Annotated[bool | None, Query(description="true: answer with the ZIP")] = None,
    prefer: Annotated[str | None, Header(description="respond-async: do not wait")] = None,
    idempotency_key: Annotated[
        str | None, Header(description="the same key finds the same job; leaving does not cancel")
    ] = None,
) -> Response:
    """Send `image` or `image_url`. The answer comes when the job is done, which takes from seconds
    to minutes without a byte in between: a proxy that cuts idle connections wants
    `Prefer: respond-async` or `POST /jobs`. Leaving the connection cancels the job."""
    options = form.options.resolve(room.settings)
    request.state.mode = options.mode.value
    with room.intake():
        picture = await take_picture(form.image, form.image_url, room)
        view = await submit(picture, options, form, room, Sender.of(request, idempotency_key))
    del picture  # the wait may be long
    if "respond-async" in (prefer or "").lower():
        response = accepted(view, room)
        response.headers["Preference-Applied"] = "respond-async"
        return response

    keep = idempotency_key is not None or not room.settings.cancel_on_disconnect
    finished = await _wait(request, view.id, room, cancel_when_left=not keep)
    if finished is None:
        return Response(status_code=CLIENT_GONE)
    if finished.status is not JobStatus.SUCCEEDED:
        failure = finished.failure or CANCELLED
        return failure_response(failure, finished.id, request_id_of(request))
    if form.download or download:
        return await zip_response(finished, room)
    body = generate_answer(finished, room).model_dump(mode="json", exclude_none=True)
    return JSONResponse(body, headers={"X-Job-Id": finished.id})


def accepted(view: JobView, room: Room) -> JSONResponse:
    """202 with the job and where to watch it."""
    body = job_answer(view, room)
    return JSONResponse(
        body.model_dump(mode="json", exclude_none=True),
        status_code=202,
        headers={"Location": body.links.job, "X-Job-Id": view.id},
    )


async def _wait(
    request: Request, job_id: str, room: Room, *, cancel_when_left: bool
) -> JobView | None:
    """The finished job, or None when the client left first."""
    done = asyncio.ensure_future(finished_job(job_id, room))
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            return done.result()
    except asyncio.CancelledError:  # how Serve tells that the client left
        if cancel_when_left:
            await asyncio.shield(asyncio.ensure_future(_cancel(job_id, room)))
        raise
    finally:
        for task in (done, gone):
            task.cancel()
    if cancel_when_left:
        await _cancel(job_id, room)
    return None


async def finished_job(job_id: str, room: Room) -> JobView:
    """Follow the job's events to its end, across restarts of the jobs room."""
    seen = 0
    while True:
        async for event in room.service.events(job_id, seen):
            seen = event.seq
        view = await room.service.get(job_id)
        if view.status.final:
            return view
        await asyncio.sleep(LOST_EVENTS_PAUSE_S)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _cancel(job_id: str, room: Room) -> None:
    with contextlib.suppress(SyncHumanError):  # it may have ended in this moment
        await room.service.cancel(job_id)
