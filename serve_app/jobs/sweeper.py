"""What becomes of jobs that nobody needs any more (serving.md section 4).

    ended -- keep_input: false ---------> its picture goes
          -- cancelled, or expired -----> its files go; the row stays and answers 410
                                   -----> after tombstone_s the row goes: 404

No replica leads. Whoever looks takes what is due under a lease, does the storage's part, then
writes it down; every step can be done twice, so a sweeper that dies leaves nothing undone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, or_, select, update

from deployments.errors import ServiceError
from deployments.stage_report import log_fields
from serve_app.jobs.protocol import JobStatus
from serve_app.jobs.rows import FINAL, QUEUED, RUNNING
from serve_app.jobs.tables import Database, events, jobs, webhook_deliveries
from serve_app.storage import Storage

log = logging.getLogger("ray.serve")

LEASE_S = 60.0
AT_ONCE = 50


class Sweeper:
    """One replica's share of the sweeping. Methods block.

    :param tombstone_s: how long the row of a job without files is kept, asked every time.
    """

    def __init__(
        self,
        database: Database,
        storage: Storage,
        *,
        tombstone_s: Callable[[], float],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._storage = storage
        self._tombstone_s = tombstone_s
        self._clock = clock

    def sweep(self, job_id: str | None = None) -> int:
        """Do everything that is due, or only what is due of one job.

        What storage refuses is tried again when its lease has run out.

        :returns: how many jobs had something due.
        """
        done = 0
        while rows := self._take(job_id):
            for row in rows:
                try:
                    self._do(row)
                except ServiceError as error:
                    log.warning(
                        "job %s is not swept: %s", row.id, error, extra=log_fields(job_id=row.id)
                    )
            done += len(rows)
            if job_id is not None or len(rows) < AT_ONCE:
                break
        return done

    def _take(self, job_id: str | None) -> list[Row[Any]]:
        now = self._clock()
        files, row = _files_due(now), _row_due(now - self._tombstone_s())
        wanted = select(
            jobs.c.id, jobs.c.input_path, files.label("files_due"), row.label("row_due")
        ).where(jobs.c.sweep_until < now, or_(files, row, _input_due()))
        if job_id is not None:
            wanted = wanted.where(jobs.c.id == job_id)
        with self._database.writing() as connection:
            rows = list(
                connection.execute(wanted.limit(AT_ONCE).with_for_update(skip_locked=True)).all()
            )
            if rows:
                taken = jobs.c.id.in_([row.id for row in rows])
                connection.execute(update(jobs).where(taken).values(sweep_until=now + LEASE_S))
        return rows

    def _do(self, row: Row[Any]) -> None:
        if not row.files_due and not row.row_due:
            self._storage.delete(row.input_path)
            self._note(row.id, input_removed=True)
            return
        # Also for a tombstone: a runner that was believed dead may have written since.
        self._storage.delete(row.id)
        if row.files_due:
            results: dict[str, Any] = {"files": {}, "stage1_result": None, "stage2_result": None}
            self._note(row.id, input_removed=True, removed_at=self._clock(), **results)
            return
        with self._database.writing() as connection:
            for table in (events, webhook_deliveries):
                connection.execute(delete(table).where(table.c.job_id == row.id))
            connection.execute(delete(jobs).where(jobs.c.id == row.id))

    def _note(self, job_id: str, **values: Any) -> None:
        with self._database.writing() as connection:
            connection.execute(
                update(jobs).where(jobs.c.id == job_id).values(sweep_until=0.0, **values)
            )


def _files_due(now: float) -> ColumnElement[bool]:
    """An export in work still reads the files of its parent."""
    children = jobs.alias("children")
    in_work = select(children.c.id).where(
        children.c.parent_id == jobs.c.id, children.c.status.in_((QUEUED, RUNNING))
    )
    return and_(
        jobs.c.removed_at.is_(None),
        jobs.c.status.in_(FINAL),
        or_(jobs.c.status == JobStatus.CANCELLED.value, jobs.c.expires_at <= now),
        ~in_work.exists(),
    )


def _input_due() -> ColumnElement[bool]:
    return and_(
        jobs.c.status.in_(FINAL),
        jobs.c.keep_input.is_(False),
        jobs.c.input_removed.is_(False),
        jobs.c.removed_at.is_(None),
    )


def _row_due(before: float) -> ColumnElement[bool]:
    """A cancelled job is removed at once but shown until it expires."""
    return and_(
        jobs.c.removed_at <= before,
        or_(jobs.c.expires_at.is_(None), jobs.c.expires_at <= before),
    )
