"""The durable record of jobs as clients see it: submit, look, watch, cancel, remove.

    queued -> running -> succeeded | failed
      |         |  ^
      |         |  '-- claimed again when the lease has run out, with a higher fence
      |         '----> queued (released on shutdown) | cancelled
      '--------------> cancelled

An ended job expires at ``expires_at``: from then on it is ``job_expired`` here, and sweeper.py
takes its files. The runners' side of the same rows is claims.py. Methods block; callers on an event
loop use ``asyncio.to_thread``. Times are seconds since the epoch.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from deployments.contracts import Mode
from deployments.errors import ServiceError
from serve_app.jobs.deliveries import webhook_report
from serve_app.jobs.export_source import export_source
from serve_app.jobs.protocol import JobEvent, JobKind, JobRequest, JobStatus, JobView
from serve_app.jobs.rows import (
    QUEUED,
    RUNNING,
    end_cancelled,
    expired,
    has_expired,
    insert_event,
    unknown,
    view,
)
from serve_app.jobs.tables import Database, events, jobs
from serve_app.jobs.usage import check_unfinished

MEDIAN_OF = 30  # recent jobs behind an estimate


class JobStore:
    """The ``jobs`` and ``events`` tables for everybody but the runners."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def submit(
        self,
        request: JobRequest,
        *,
        max_attempts: int,
        max_queued: int,
        max_queued_of_owner: int,
        key_kept_s: float = math.inf,
    ) -> tuple[JobView, bool]:
        """Record a job, or find the one that has this id or this Idempotency-Key already.

        :param key_kept_s: how long an Idempotency-Key finds its job; later it makes a new one.
        :returns: the job, and whether it is new.
        :raises ServiceError: ``queue_full``, ``idempotency_conflict`` (the key belongs to another
            request), ``job_expired`` (its job was removed, or an export's parent); for an export
            also ``not_found`` and what :func:`export_source` refuses.
        """
        limits = (max_attempts, max_queued, max_queued_of_owner, key_kept_s)
        try:
            return self._submit(request, *limits)
        except IntegrityError:  # the same request in the same moment through another replica
            return self._submit(request, *limits)

    def _submit(
        self,
        request: JobRequest,
        max_attempts: int,
        max_queued: int,
        max_queued_of_owner: int,
        key_kept_s: float,
    ) -> tuple[JobView, bool]:
        owner = request.owner or ""
        mode = Mode(request.options.get("mode", Mode.OFFICIAL))
        now = self._clock()
        with self._database.writing() as connection:
            twin = self._twin(connection, request, now - key_kept_s)
            if twin is not None:
                return view(twin, self._position(connection, twin)), False
            own = connection.execute(select(jobs).where(jobs.c.id == request.job_id)).first()
            if own is not None:  # the same call once more, after its answer was lost
                return view(own, self._position(connection, own)), False
            self._check_room(connection, owner, max_queued, max_queued_of_owner)
            check_unfinished(connection, request)
            source = {"input_path": request.input_path}
            if request.parent_id is not None:
                parent = self._row(connection, request.parent_id, request.owner, locked=True)
                source = export_source(connection, parent, now)
            terms = request.terms
            connection.execute(
                insert(jobs).values(
                    id=request.job_id,
                    owner=owner,
                    idempotency_key=request.idempotency_key,
                    digest=request.digest,
                    kind=request.kind.value,
                    priority=terms.priority,
                    status=QUEUED,
                    cancel_requested=False,
                    attempt=0,
                    counted_fence=0,
                    max_attempts=max_attempts,
                    fence=0,
                    lease_until=0.0,
                    mode=mode.value,
                    options=request.options,
                    step=0,
                    steps=0,
                    last_seq=1,
                    warnings=[],
                    files={},
                    seconds={},
                    created_at=now,
                    keep_for=terms.keep_for,
                    keep_input=terms.keep_input or request.kind is JobKind.EXPORT,  # not its own
                    webhook_url=terms.webhook_url,
                    webhook_events=list(terms.webhook_events) if terms.webhook_url else None,
                    request_id=request.request_id,
                    traceparent=request.traceparent,
                    **source,
                )
            )
            row = self._row(connection, request.job_id)
            insert_event(connection, row, 1, now, "queued", {"mode": mode.value})
            return view(row, self._position(connection, row)), True

    def get(self, job_id: str, owner: str | None = None) -> JobView:
        """A job as it is now.

        :param owner: where it is given, jobs of others are not there.
        :raises ServiceError: ``not_found``, ``job_expired``.
        """
        with self._database.reading() as connection:
            row = self._row(connection, job_id, owner)
            if has_expired(row, self._clock()):
                raise expired(row)
            seen = view(row, self._position(connection, row))
            return seen.model_copy(update={"webhook": webhook_report(connection, job_id)})

    def events(self, job_id: str, after: int, limit: int = 500) -> tuple[list[JobEvent], bool]:
        """Events with ``seq > after`` in order, and whether the job can have no further ones.

        :raises ServiceError: ``not_found``.
        """
        with self._database.reading() as connection:
            job = connection.execute(
                select(jobs.c.status, jobs.c.last_seq).where(jobs.c.id == job_id)
            ).first()
            if job is None:
                raise unknown(job_id)
            rows = connection.execute(
                select(events)
                .where(events.c.job_id == job_id, events.c.seq > after)
                .order_by(events.c.seq)
                .limit(limit)
            ).all()
        found = [JobEvent(seq=r.seq, time=r.time, kind=r.kind, body=r.body) for r in rows]
        reached = found[-1].seq if found else after
        return found, JobStatus(job.status).final and reached >= job.last_seq

    def cancel(self, job_id: str, owner: str | None = None) -> JobView:
        """Cancel a queued job at once, ask the runner of a running one; finished ones stay.

        :raises ServiceError: ``not_found``, ``job_expired``.
        """
        with self._database.writing() as connection:
            row = self._row(connection, job_id, owner, locked=True)
            return self._cancelled(connection, row)

    def remove(self, job_id: str, owner: str | None = None) -> JobView:
        """Cancel a job that has not ended; one that has expires now.

        :returns: the job as it was at its end, or as it still runs.
        :raises ServiceError: ``not_found``, ``job_expired``.
        """
        with self._database.writing() as connection:
            row = self._row(connection, job_id, owner, locked=True)
            shown = self._cancelled(connection, row)
            if JobStatus(row.status).final:
                connection.execute(
                    update(jobs).where(jobs.c.id == job_id).values(expires_at=self._clock())
                )
            return shown

    def _cancelled(self, connection: Connection, row: Row[Any]) -> JobView:
        now = self._clock()
        if has_expired(row, now):
            raise expired(row)
        if row.status == QUEUED:
            end_cancelled(connection, row, now)
        elif row.status == RUNNING:
            connection.execute(
                update(jobs).where(jobs.c.id == row.id).values(cancel_requested=True)
            )
        return view(self._row(connection, row.id))

    def _row(
        self, connection: Connection, job_id: str, owner: str | None = None, *, locked: bool = False
    ) -> Row[Any]:
        wanted = select(jobs).where(jobs.c.id == job_id)
        if owner is not None:
            wanted = wanted.where(jobs.c.owner == owner)
        row = connection.execute(wanted.with_for_update() if locked else wanted).first()
        if row is None:
            raise unknown(job_id)
        return row

    def _twin(self, connection: Connection, request: JobRequest, oldest: float) -> Row[Any] | None:
        """The job that this request's Idempotency-Key has made, unless that was long ago."""
        if request.idempotency_key is None:
            return None
        of_key = and_(
            jobs.c.owner == (request.owner or ""),
            jobs.c.idempotency_key == request.idempotency_key,
        )
        twin = connection.execute(select(jobs).where(of_key)).first()
        if twin is None:
            return None
        if twin.created_at < oldest:
            connection.execute(update(jobs).where(of_key).values(idempotency_key=None))
            return None
        if (twin.digest, twin.options) != (request.digest, request.options):
            raise ServiceError(
                f"Idempotency-Key {request.idempotency_key!r} belongs to another "
                "request (another picture or other options): use a new key",
                code="idempotency_conflict",
                job_id=twin.id,
            )
        if has_expired(twin, self._clock()):
            raise expired(twin)
        return twin

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
        measured: dict[str, list[float]] = {}
        with self._database.reading() as connection:
            for kind in JobKind:  # many exports would push every generation out of sight
                rows = connection.execute(
                    select(jobs.c.seconds)
                    .where(jobs.c.status == JobStatus.SUCCEEDED.value, jobs.c.kind == kind.value)
                    .order_by(jobs.c.finished_at.desc())
                    .limit(MEDIAN_OF)
                ).all()
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
        count = select(func.count()).select_from(jobs)
        earlier = or_(
            jobs.c.priority > row.priority,
            and_(jobs.c.priority == row.priority, jobs.c.created_at < row.created_at),
            and_(
                jobs.c.priority == row.priority,
                jobs.c.created_at == row.created_at,
                jobs.c.id < row.id,
            ),
        )
        waiting = count.where(jobs.c.status == QUEUED, earlier)
        return int(connection.execute(waiting).scalar_one()) + 1
