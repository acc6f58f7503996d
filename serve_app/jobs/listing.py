"""Lists of jobs, newest first, page by page.

A cursor names the last job of a page and not a number of rows, so jobs that come in meanwhile move
nothing. It is opaque to clients.
"""

from __future__ import annotations

import base64
import binascii
import json

from sqlalchemy import and_, or_, select

from deployments.errors import InputError
from serve_app.jobs.protocol import JobPage, JobQuery
from serve_app.jobs.rows import view
from serve_app.jobs.tables import Database, jobs


def list_jobs(database: Database, query: JobQuery, now: float) -> JobPage:
    """One page. What has expired by ``now`` is left out; queue positions are not counted. Blocks.

    :raises InputError: ``cursor_invalid``.
    """
    wanted = select(jobs).where(or_(jobs.c.expires_at.is_(None), jobs.c.expires_at > now))
    if query.owner is not None:
        wanted = wanted.where(jobs.c.owner == query.owner)
    if query.statuses:
        wanted = wanted.where(jobs.c.status.in_([status.value for status in query.statuses]))
    if query.created_after is not None:
        wanted = wanted.where(jobs.c.created_at >= query.created_after)
    if query.created_before is not None:
        wanted = wanted.where(jobs.c.created_at < query.created_before)
    if query.cursor is not None:
        created_at, job_id = _opened(query.cursor)
        older = jobs.c.created_at < created_at
        beside = and_(jobs.c.created_at == created_at, jobs.c.id < job_id)
        wanted = wanted.where(or_(older, beside))
    order = (jobs.c.created_at.desc(), jobs.c.id.desc())
    with database.reading() as connection:
        rows = connection.execute(wanted.order_by(*order).limit(query.limit + 1)).all()
    more, rows = len(rows) > query.limit, rows[: query.limit]
    return JobPage(
        jobs=tuple(view(row) for row in rows),
        next=_sealed(rows[-1].created_at, rows[-1].id) if more else None,
    )


def _sealed(created_at: float, job_id: str) -> str:
    text = json.dumps([created_at, job_id], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _opened(cursor: str) -> tuple[float, str]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        created_at, job_id = json.loads(text)
        return float(created_at), str(job_id)
    except (binascii.Error, ValueError, TypeError):
        raise InputError(
            f"cursor {cursor[:80]!r} is none that this service has given. "
            "Send the `next` of the page before, or none",
            code="cursor_invalid",
        ) from None
