"""Jobs in the hands of runners: claim, lease, fence.

The one rule behind everything (serving.md section 4): whoever claims a job raises its fence, and
every later write says which fence it belongs to. A runner that was believed dead and comes back
changes nothing: no row matches, and it gets ``FenceLost``. Methods block; callers on an event loop
use ``asyncio.to_thread``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, case, or_, select, update

from deployments.contracts import Mode
from deployments.errors import ServiceError
from serve_app.jobs.protocol import JobKind, JobStatus
from serve_app.jobs.rows import QUEUED, RUNNING, end_cancelled, insert_event
from serve_app.jobs.tables import Database, jobs

EVENT_COLUMNS = (jobs.c.id, jobs.c.webhook_url, jobs.c.webhook_events)


class FenceLost(ServiceError):  # noqa: N818 - the ordinary end of a runner that came too late
    """The job is no longer the writer's: taken over, finished by another, or gone."""

    default_code = "fence_lost"


@dataclass(frozen=True)
class Claim:
    """A job in the hands of one runner."""

    job: str
    kind: JobKind
    parent_id: str | None
    fence: int
    attempt: int
    max_attempts: int
    mode: Mode
    options: dict[str, Any]
    input_path: str
    keep_input: bool
    stage1_result: str | None
    stage2_result: str | None
    seconds: dict[str, float]
    created_at: float = 0.0
    request_id: str = ""
    traceparent: str = ""


class ClaimStore:
    """The ``jobs`` table for the runners."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def claim(self, runner: str, lease_s: float) -> Claim | None:
        """Take a job that waits, or whose runner has let its lease run out.

        The one with the highest priority, among equals the oldest.
        """
        while True:
            now = self._clock()
            with self._database.writing() as connection:
                row = connection.execute(
                    select(jobs)
                    .where(
                        or_(
                            jobs.c.status == QUEUED,
                            and_(jobs.c.status == RUNNING, jobs.c.lease_until < now),
                        )
                    )
                    .order_by(jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id)
                    .limit(1)
                    .with_for_update(skip_locked=True)
                ).first()
                if row is None:
                    return None
                if row.cancel_requested:  # its runner died before it could obey
                    end_cancelled(connection, row, self._clock())
                    continue
                taken = connection.execute(
                    update(jobs)
                    .where(jobs.c.id == row.id)
                    .values(
                        status=RUNNING,
                        fence=row.fence + 1,
                        runner=runner,
                        lease_until=now + lease_s,
                    )
                    .returning(jobs)
                ).one()
                return _claim(taken)

    def renew(self, claims: dict[str, int], lease_s: float) -> dict[str, bool]:
        """Extend the leases of ``{job: fence}``.

        :returns: ``{job: whether its cancellation was asked for}`` for the jobs still held.
        """
        held = {}
        with self._database.writing() as connection:
            for job, fence in claims.items():
                row = connection.execute(
                    update(jobs)
                    .where(_mine(job, fence))
                    .values(lease_until=self._clock() + lease_s)
                    .returning(jobs.c.cancel_requested)
                ).first()
                if row is not None:
                    held[job] = bool(row.cancel_requested)
        return held

    def alive(self, job_id: str, fence: int) -> float:
        """Seconds that the lease of this fence still has; 0 when it is over or cancelled."""
        with self._database.reading() as connection:
            row = connection.execute(
                select(jobs.c.lease_until, jobs.c.cancel_requested).where(_mine(job_id, fence))
            ).first()
        if row is None or row.cancel_requested:
            return 0.0
        return max(0.0, float(row.lease_until) - self._clock())

    def started(self, job_id: str, fence: int, stage: str) -> int:
        """A stage began. The first one under a fence counts as an attempt; returns attempts.

        Counted here and not at the claim, or jobs that only waited would lose one in every restart.
        """
        now = self._clock()
        with self._database.writing() as connection:
            row = connection.execute(
                select(jobs).where(_mine(job_id, fence)).with_for_update()
            ).first()
            if row is None:
                raise _lost(job_id, fence)
            if row.counted_fence == fence:
                return int(row.attempt)
            body = {"attempt": row.attempt + 1, "stage": stage}
            self._append(
                connection,
                job_id,
                fence,
                ("started", body),
                attempt=row.attempt + 1,
                counted_fence=fence,
                started_at=row.started_at or now,
            )
            return int(row.attempt) + 1

    def take_again(self, job_id: str, fence: int) -> Claim:
        """Raise the fence of an own job, so that a replica that may still work on it stops."""
        with self._database.writing() as connection:
            row = connection.execute(
                update(jobs).where(_mine(job_id, fence)).values(fence=fence + 1).returning(jobs)
            ).first()
            if row is None:
                raise _lost(job_id, fence)
            return _claim(row)

    def note(self, job_id: str, fence: int, kind: str, body: dict[str, Any], **values: Any) -> bool:
        """Write an event and columns of the job's row in one.

        :returns: whether the job's cancellation was asked for.
        :raises FenceLost: when the job is no longer this fence's.
        """
        with self._database.writing() as connection:
            return self._append(connection, job_id, fence, (kind, body), **values)

    def finish(
        self,
        job_id: str,
        fence: int,
        status: JobStatus,
        event: tuple[str, dict[str, Any]],
        **values: Any,
    ) -> None:
        """End a job: its last event and everything its view shows, in one.

        A job that succeeded although somebody had it removed meanwhile expires at once.
        """
        now = self._clock()
        expires = now + jobs.c.keep_for
        if status is JobStatus.SUCCEEDED:
            expires = case((jobs.c.cancel_requested, now), else_=expires)
        ends = {
            "status": status.value,
            "finished_at": now,
            "expires_at": expires,
            "lease_until": 0.0,
        }
        with self._database.writing() as connection:
            self._append(connection, job_id, fence, event, **ends, **values)

    def release(self, job_id: str, fence: int) -> None:
        """Give a job back unfinished. One whose cancellation was asked for ends instead."""
        with self._database.writing() as connection:
            row = connection.execute(
                select(jobs).where(_mine(job_id, fence)).with_for_update()
            ).first()
            if row is None:
                raise _lost(job_id, fence)
            if row.cancel_requested:
                end_cancelled(connection, row, self._clock())
                return
            connection.execute(
                update(jobs)
                .where(jobs.c.id == job_id)
                .values(status=QUEUED, lease_until=0.0, runner=None)
            )

    def _append(
        self,
        connection: Connection,
        job_id: str,
        fence: int,
        event: tuple[str, dict[str, Any]],
        **values: Any,
    ) -> bool:
        row = connection.execute(
            update(jobs)
            .where(_mine(job_id, fence))
            .values(last_seq=jobs.c.last_seq + 1, **values)
            .returning(*EVENT_COLUMNS, jobs.c.last_seq, jobs.c.cancel_requested)
        ).first()
        if row is None:
            raise _lost(job_id, fence)
        insert_event(connection, row, row.last_seq, self._clock(), *event)
        return bool(row.cancel_requested)


def _mine(job_id: str, fence: int) -> Any:
    return and_(jobs.c.id == job_id, jobs.c.fence == fence, jobs.c.status == RUNNING)


def _claim(row: Row[Any]) -> Claim:
    return Claim(
        job=row.id,
        kind=JobKind(row.kind),
        parent_id=row.parent_id,
        fence=row.fence,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        mode=Mode(row.mode),
        options=row.options,
        input_path=row.input_path,
        keep_input=row.keep_input,
        stage1_result=row.stage1_result,
        stage2_result=row.stage2_result,
        seconds=row.seconds,
        created_at=row.created_at,
        request_id=row.request_id or "",
        traceparent=row.traceparent or "",
    )


def _lost(job_id: str, fence: int) -> FenceLost:
    return FenceLost(f"job {job_id} no longer belongs to fence {fence}")
