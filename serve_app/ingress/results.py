"""What a job has made: single files and the ZIP."""

from __future__ import annotations

import asyncio
import mimetypes
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from deployments.errors import ServiceError
from serve_app.ingress.answers import etag, files_or_expired, zip_response
from serve_app.ingress.own_job import OwnJob
from serve_app.ingress.problems import problem_responses
from serve_app.ingress.room import TheRoom
from serve_app.jobs.protocol import JobStatus, JobView

PIECE = 1 << 20
ONE_RANGE = re.compile(r"bytes=(\d*)-(\d*)")

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.get(
    "/{job_id}/result.zip",
    summary="The result as a ZIP",
    response_class=Response,
    responses={
        200: {"description": "The ZIP; ranges work", "content": {"application/zip": {}}},
        **problem_responses(404, 409, 410, 503),
    },
)
async def result(job: OwnJob, room: TheRoom) -> Response:
    """The ZIP of a job that succeeded."""
    return await zip_response(_succeeded(job), room)


@router.get(
    "/{job_id}/files/{path:path}",
    summary="One file of the result",
    response_class=Response,
    responses={
        200: {"description": "The file", "content": {"application/octet-stream": {}}},
        206: {"description": "The range that was asked for"},
        416: {"description": "The file is shorter; `Content-Range` says how long it is"},
        **problem_responses(404, 409, 410, 503),
    },
)
async def one_file(job: OwnJob, path: str, room: TheRoom, request: Request) -> Response:
    """A file under its name in the ZIP, e.g. `stage2/output.glb`."""
    place = _succeeded(job).files.get(path)
    if place is None:
        raise ServiceError(
            f"job {job.id} has no file {path!r}. GET /jobs/{job.id} lists what it has",
            code="not_found",
        )
    with files_or_expired(job):
        size = await asyncio.to_thread(room.storage.size, place)
        wanted = _range(request.headers, etag(job), size)
        headers = {"Accept-Ranges": "bytes", "ETag": etag(job), "X-Job-Id": job.id}
        if wanted is None:
            return Response(
                status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"}
            )
        file = await asyncio.to_thread(room.storage.open, place)  # checked before a byte goes out
    name = path.rpartition("/")[2]
    kind = "model/gltf-binary" if name.endswith(".glb") else mimetypes.guess_type(name)[0]
    part = len(wanted) != size
    if part:
        headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{size}"
    return FileStream(
        file,
        wanted,
        status_code=206 if part else 200,
        media_type=kind or "application/octet-stream",
        headers={
            **headers,
            "Content-Length": str(len(wanted)),
            "Content-Disposition": f'inline; filename="{name}"',
        },
    )


def _succeeded(view: JobView) -> JobView:
    if view.status is JobStatus.SUCCEEDED:
        return view
    raise ServiceError(
        f"job {view.id} is {view.status.value}; only a job that succeeded has a result. "
        f"GET /jobs/{view.id} tells more",
        code="not_finished" if not view.status.final else "no_result",
    )


def _range(headers: Headers, tag: str, size: int) -> range | None:
    """The bytes that a request asks for (RFC 9110, 14), None when the file has none of them.

    What is no single range of bytes is ignored, as the RFC allows.
    """
    asked = ONE_RANGE.fullmatch(headers.get("range", "").replace(" ", ""))
    if asked is None or asked.group(0) == "bytes=-" or headers.get("if-range", tag) != tag:
        return range(size)
    first, last = asked.groups()
    if not first:
        found = range(max(0, size - int(last)), size)
    else:
        found = range(int(first), min(int(last) + 1, size) if last else size)
        if last and int(last) < int(first):
            return range(size)
    return found if len(found) else None


class FileStream(StreamingResponse):
    """A part of an open file, which is closed also when the client leaves before the end."""

    def __init__(self, file: BinaryIO, wanted: range, **answer: Any) -> None:
        super().__init__(_pieces(file, wanted), **answer)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()


def _pieces(file: BinaryIO, wanted: range) -> Iterator[bytes]:
    """A part of a file in pieces; Starlette runs this in a thread."""
    file.seek(wanted.start)
    left = len(wanted)
    while left and (piece := file.read(min(PIECE, left))):
        left -= len(piece)
        yield piece
