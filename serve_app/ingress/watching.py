"""Watching a job: its events as a stream, and how long the rest of it will take."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse

from deployments.contracts import Mode
from serve_app.ingress.own_job import OwnJob
from serve_app.ingress.problems import problem_responses
from serve_app.ingress.room import TheRoom
from serve_app.jobs.protocol import JobEvent, JobKind, JobView, ServiceState

KEEP_ALIVE_S = 10.0

router = APIRouter(prefix="/jobs", tags=["jobs"])


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
    job: OwnJob,
    room: TheRoom,
    last_event_id: Annotated[
        str | None, Header(description="go on after this event; EventSource sends it by itself")
    ] = None,
) -> StreamingResponse:
    """Every event from the beginning, or after `Last-Event-ID`; ends when the job has ended."""
    after = int(last_event_id) if last_event_id and last_event_id.isdecimal() else 0
    return StreamingResponse(
        event_lines(room.service.events(job.id, after)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Job-Id": job.id},
    )


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
    if view.kind is JobKind.EXPORT:
        stages = ["export"]
    else:
        stages = ["preprocess", "stage1"]
        stages.append("preview" if view.mode is Mode.STAGE1_ONLY else "stage2")
    order = [name for name in stages if name in seconds]
    if not order:
        return None
    if view.stage not in order:
        return sum(seconds[name] for name in order)
    here = order.index(view.stage)
    left = 1 - view.step / view.steps if view.steps else 1.0
    return seconds[view.stage] * left + sum(seconds[name] for name in order[here + 1 :])
