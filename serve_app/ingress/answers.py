"""A job as an answer: the JSON of unified_api.md, the job's own JSON, or the ZIP."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from deployments.errors import ServiceError
from serve_app.ingress.archive import write_archive
from serve_app.ingress.room import Room
from serve_app.ingress.schemas import GenerateAnswer, JobAnswer, Links, StageAnswer
from serve_app.jobs.protocol import JobStatus, JobView, StageReport

NOT_RUN = StageReport(status="skipped", reason="the job's mode is stage1-only")


def links(job_id: str) -> Links:
    """Links of a job, relative to the service."""
    base = f"/jobs/{job_id}"
    return Links(
        job=base,
        events=f"{base}/events",
        result=f"{base}/result.zip",
        exports=f"{base}/exports",
    )


def generate_answer(view: JobView, room: Room) -> GenerateAnswer:
    """The JSON answer of ``POST /generate`` for a job that succeeded."""
    return GenerateAnswer(
        job_id=view.id,
        mode=view.mode,
        status="completed",
        stage1=_stage(view, "stage1", view.stage1 or NOT_RUN, room),
        stage2=_stage(view, "stage2", view.stage2 or NOT_RUN, room),
        warnings=list(view.warnings),
        links=links(view.id),
    )


def job_answer(view: JobView, room: Room, estimated_seconds: float | None = None) -> JobAnswer:
    """A job's state, whatever it is."""
    failure = view.failure
    return JobAnswer(
        job_id=view.id,
        kind=view.kind,
        parent_id=view.parent_id,
        status=view.status,
        mode=view.mode,
        options=view.options,
        priority=view.priority,
        stage=view.stage,
        step=view.step,
        steps=view.steps,
        attempt=view.attempt,
        queue_position=view.queue_position,
        created_at=view.created_at,
        started_at=view.started_at,
        finished_at=view.finished_at,
        expires_at=view.expires_at,
        estimated_seconds=estimated_seconds,
        warnings=list(view.warnings),
        stage1=_stage(view, "stage1", view.stage1, room) if view.stage1 else None,
        stage2=_stage(view, "stage2", view.stage2, room) if view.stage2 else None,
        files={name: f"/jobs/{view.id}/files/{name}" for name in sorted(view.files)},
        error={**failure.detail, "code": failure.code, "detail": failure.message}
        if failure
        else None,
        webhook=view.webhook,
        links=links(view.id),
    )


def _stage(view: JobView, stage: str, report: StageReport, room: Room) -> StageAnswer:
    published = report.directory is not None and view.status is JobStatus.SUCCEEDED
    return StageAnswer(
        status=report.status,
        reason=report.reason,
        output_dir=room.storage.stage_location(view.id, stage, report.directory)
        if published and report.directory is not None
        else report.directory,
        files={_key(stage, name): name for name in report.files if name != "input.png"},
    )


def _key(stage: str, name: str) -> str:
    """The document's keys: ``color_0`` for Stage 1's pictures, whole names for Stage 2's files."""
    return PurePosixPath(name).stem if stage == "stage1" else name


class ZipResponse(FileResponse):
    """A job's ZIP from a temporary file that goes when it was sent, or when the client left."""

    media_type = "application/zip"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.to_thread(Path(self.path).unlink, missing_ok=True)


async def zip_response(view: JobView, room: Room) -> ZipResponse:
    """The ZIP of a job that succeeded; ranges and ``If-Range`` work, the bytes never change."""
    with files_or_expired(view):
        path = await asyncio.to_thread(_pack, view, room)
    return ZipResponse(
        path,
        filename=f"synchuman_{view.id}.zip",
        headers={"X-Job-Id": view.id, "ETag": etag(view)},
    )


def etag(view: JobView) -> str:
    """The same as long as a path below the job has the same bytes, which is always."""
    return f'"{view.id}-{view.attempt}"'


@contextlib.contextmanager
def files_or_expired(view: JobView) -> Iterator[None]:
    """A file that the job's row names and storage does not have was removed.

    :raises ServiceError: ``job_expired`` in place of the storage's ``not_found``.
    """
    try:
        yield
    except ServiceError as error:
        if error.code != "not_found":
            raise
        raise ServiceError(
            f"the files of job {view.id} were removed. Send the picture again (an "
            "Idempotency-Key of this job finds only this job)",
            code="job_expired",
        ) from error


def _pack(view: JobView, room: Room) -> Path:
    with tempfile.NamedTemporaryFile(suffix=".zip", delete=False) as file:
        try:
            write_archive(view, room.storage, file)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return Path(file.name)
