"""The durable record of jobs as clients see it: submit, look, watch, cancel.

    queued -> running -> succeeded | failed
      |         |  ^
      |         |  '-- claimed again when the lease has run out, with a higher fence
      |         '----> queued (released on shutdown) | cancelled
      '--------------> cancelled

The runners' side of the same rows is claims.py. Methods block; callers on an event loop use
``asyncio.to_thread``. Times are seconds since the epoch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from deployments.contracts import Mode
from deployments.errors import ServiceError
from serve_app.jobs.protocol import JobEvent, JobRequest, JobStatus, JobView
from serve_app.jobs.rows import QUEUED, RUNNING, end_cancelled, insert_event, view
from serve_app.jobs.tables import Database, events, jobs

MEDIAN_OF = 30  # recent jobs behind an estimate


class JobStore:
    """The ``jobs`` and ``events`` tables for everybody but the runners."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def submit(
        self, request: JobRequest, *, max_attempts: int, max_queued: int, max_queued_of_owner: int
    ) -> tuple[JobView, bool]:
        """Record a job, or find the one that has this id or this Idempotency-Key already.

        :returns: the job, and whether it is new.
        :raises ServiceError: ``queue_full``, ``idempotency_conflict`` (the key belongs to another
            request).
        """
        limits = (max_attempts, max_queued, max_queued_of_owner)
        try:
            return self._submit(request, *limits)
        except IntegrityError:  # the same request in the same moment through another replica
            return self._submit(request, *limits)

    def _submit(
        self, request: JobRequest, max_attempts: int, max_queued: int, max_queued_of_owner: int
    ) -> tuple[JobView, bool]:
        owner = request.owner or ""
        mode = Mode(request.options.get("mode", Mode.OFFICIAL))
        now = self._clock()
        with self._database.writing() as connection:
            if request.idempotency_key is not None:
                twin = connection.execute(
                    select(jobs).where(
                        jobs.c.owner == owner, jobs.c.idempotency_key == request.idempotency_key
                    )
                ).first()
                if twin is not None:
                    if (twin.digest, twin.options) != (request.digest, request.options):
                        raise ServiceError(
                            f"Idempotency-Key {request.idempotency_key!r} belongs to another "
                            "request (another picture or other options): use a new key",
                            code="idempotency_conflict",
                            job_id=twin.id,
                        )
                    return view(twin), False
            own = connection.execute(select(jobs).where(jobs.c.id == request.job_id)).first()
            if own is not None:  # the same call once more, after its answer was lost
                return view(own, self._position(connection, own)), False
            self._check_room(connection, owner, max_queued, max_queued_of_owner)
            connection.execute(
                insert(jobs).values(
                    id=request.job_id,
                    owner=owner,
                    idempotency_key=request.idempotency_key,
                    digest=request.digest,
                    status=QUEUED,
                    cancel_requested=False,
                    attempt=0,
                    counted_fence=0,
                    max_attempts=max_attempts,
                    fence=0,
                    lease_until=0.0,
                    mode=mode.value,
                    options=request.options,
                    input_path=request.input_path,
                    step=0,
                    steps=0,
                    last_seq=1,
                    warnings=[],
                    files={},
                    seconds={},
                    created_at=now,
                    request_id=request.request_id,
                    traceparent=request.traceparent,
                )
            )
            row = connection.execute(select(jobs).where(jobs.c.id == request.job_id)).one()
            insert_event(connection, row, 1, now, "queued", {"mode": mode.value})
            return view(row, self._position(connection, row)), True

    def get(self, job_id: str) -> JobView:
        """:raises ServiceError: ``not_found``."""
        with self._database.reading() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == job_id)).first()
            if row is None:
                raise _unknown(job_id)
            return view(row, self._position(connection, row))

    def events(self, job_id: str, after: int, limit: int = 500) -> tuple[list[JobEvent], bool]:
        """Events with ``seq > after`` in order, and whether the job can have no further ones.

        :raises ServiceError: ``not_found``.
        """
        with self._database.reading() as connection:
            job = connection.execute(
                select(jobs.c.status, jobs.c.last_seq).where(jobs.c.id == job_id)
            ).first()
            if job is None:
                raise _unknown(job_id)
            rows = connection.execute(
                select(events)
                .where(events.c.job_id == job_id, events.c.seq > after)
                .order_by(events.c.seq)
                .limit(limit)
            ).all()
        found = [JobEvent(seq=r.seq, time=r.time, kind=r.kind, body=r.body) for r in rows]
        reached = found[-1].seq if found else after
        return found, JobStatus(job.status).final and reached >= job.last_seq

    def cancel(self, job_id: str) -> JobView:
        """Cancel a queued job at once, ask the runner of a running one; finished ones stay.

        :raises ServiceError: ``not_found``.
        """
        with self._database.writing() as connection:
            row = connection.execute(
                select(jobs).where(jobs.c.id == job_id).with_for_update()
            ).first()
            if row is None:
                raise _unknown(job_id)
            if row.status == QUEUED:
                end_cancelled(connection, row, self._clock())
            elif row.status == RUNNING:
                connection.execute(
                    update(jobs).where(jobs.c.id == job_id).values(cancel_requested=True)
                )
            return view(connection.execute(select(jobs).where(jobs.c.id == job_id)).one())

    def counts(self) -> dict[JobStatus, int]:
        """How many jobs wait and how many run."""
        with self._database.reading() as connection:
            rows = connection.execute(
                select(jobs.c.status, func.count())
                .where(jobs.c.status.in_((QUEUED, RUNNING)))
                .group_by(jobs.c.status)
            ).all()
        found = {JobStatus(status): int(number) for status, number in rows}
        return {status: found.get(status, 0) for status in (JobStatus.QUEUED, JobStatus.RUNNING)}

    def median_seconds(self) -> dict[str, float]:
        """Median seconds of each stage over the last jobs that succeeded."""
        with self._database.reading() as connection:
            rows = connection.execute(
                select(jobs.c.seconds)
                .where(jobs.c.status == JobStatus.SUCCEEDED.value)
                .order_by(jobs.c.finished_at.desc())
                .limit(MEDIAN_OF)
            ).all()
        measured: dict[str, list[float]] = {}
        for (seconds,) in rows:
            for stage, value in seconds.items():
                measured.setdefault(stage, []).append(value)
        return {stage: statistics.median(values) for stage, values in measured.items()}

    def _check_room(
        self, connection: Connection, owner: str, max_queued: int, max_queued_of_owner: int
    ) -> None:
        queued = select(func.count()).select_from(jobs).where(jobs.c.status == QUEUED)
        waiting = connection.execute(queued).scalar_one()
        if waiting >= max_queued:
            raise ServiceError(
                f"{waiting} jobs are waiting and the service takes no more than {max_queued}: "
                "try again later",
                code="queue_full",
                queued=waiting,
            )
        if owner:
            own = connection.execute(queued.where(jobs.c.owner == owner)).scalar_one()
            if own >= max_queued_of_owner:
                raise ServiceError(
                    f"{own} jobs of this API key are waiting and {max_queued_of_owner} may: "
                    "wait for some of them",
                    code="queue_full",
                    queued=own,
                )

    def _position(self, connection: Connection, row: Row[Any]) -> int | None:
        if row.status != QUEUED:
            return None
        earlier = or_(
            jobs.c.created_at < row.created_at,
            and_(jobs.c.created_at == row.created_at, jobs.c.id < row.id),
        )
        count = select(func.count()).select_from(jobs).where(jobs.c.status == QUEUED, earlier)
        return int(connection.execute(count).scalar_one()) + 1


def _unknown(job_id: str) -> ServiceError:
    return ServiceError(f"there is no job {job_id!r}", code="not_found")
