"""Rows of the job tables as records, and the writes that both sides of a job share."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import Connection, Row, insert, update

from deployments.contracts import Mode
from deployments.errors import ServiceError
from serve_app.jobs.protocol import JobFailure, JobKind, JobStatus, JobView, StageReport
from serve_app.jobs.tables import events, jobs, webhook_deliveries

QUEUED, RUNNING = JobStatus.QUEUED.value, JobStatus.RUNNING.value
FINAL = tuple(status.value for status in JobStatus if status.final)


def has_expired(row: Row[Any], now: float) -> bool:
    """Whether the job is gone for its owner, be its files swept already or not."""
    return row.expires_at is not None and bool(row.expires_at <= now)


def unknown(job_id: str) -> ServiceError:
    """Said of what is not there, and of what belongs to somebody else."""
    return ServiceError(f"there is no job {job_id!r}", code="not_found")


def expired(row: Row[Any]) -> ServiceError:
    """Said to the owner of a job that is gone."""
    return ServiceError(
        f"job {row.id} and its files were removed, by DELETE or because their time was over. "
        "Send the picture again; keep_for asks for more time",
        code="job_expired",
        ended_as=row.status,
        finished_at=row.finished_at,
        expired_at=row.expires_at,
    )


def insert_event(
    connection: Connection, row: Row[Any], seq: int, now: float, kind: str, body: dict[str, Any]
) -> None:
    """Write a job's event and, when the job wants to tell it, its webhook delivery.

    :param row: of the job, with at least id, webhook_url and webhook_events.
    """
    connection.execute(
        insert(events).values(job_id=row.id, seq=seq, time=now, kind=kind, body=body)
    )
    if row.webhook_url is not None and kind in (row.webhook_events or ()):
        connection.execute(
            insert(webhook_deliveries).values(
                id=f"msg_{uuid.uuid4().hex}",
                job_id=row.id,
                event=kind,
                url=row.webhook_url,
                body={"job_id": row.id, "seq": seq, "time": now, "event": kind, **body},
                next_at=now,
                created_at=now,
            )
        )


def end_cancelled(connection: Connection, row: Row[Any], now: float) -> None:
    """End a job that nobody works on as cancelled; a late runner finds its fence gone."""
    connection.execute(
        update(jobs)
        .where(jobs.c.id == row.id)
        .values(
            status=JobStatus.CANCELLED.value,
            cancel_requested=True,
            fence=row.fence + 1,
            lease_until=0.0,
            finished_at=now,
            expires_at=None if row.keep_for is None else now + row.keep_for,
            last_seq=row.last_seq + 1,
        )
    )
    insert_event(connection, row, row.last_seq + 1, now, "cancelled", {})


def view(row: Row[Any], position: int | None = None) -> JobView:
    return JobView(
        id=row.id,
        owner=row.owner,
        kind=JobKind(row.kind),
        parent_id=row.parent_id,
        status=JobStatus(row.status),
        mode=Mode(row.mode),
        options=row.options,
        priority=row.priority,
        stage=row.stage,
        step=row.step,
        steps=row.steps,
        attempt=row.attempt,
        queue_position=position,
        cancel_requested=row.cancel_requested,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        expires_at=row.expires_at,
        request_id=row.request_id,
        warnings=tuple(row.warnings),
        stage1=None if row.stage1 is None else StageReport.model_validate(row.stage1),
        stage2=None if row.stage2 is None else StageReport.model_validate(row.stage2),
        files=row.files,
        failure=None if row.failure is None else JobFailure.model_validate(row.failure),
    )
