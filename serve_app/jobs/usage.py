"""How often an API key was used, counted where every ingress replica sees it.

The limit is of a sliding minute, approximated by two fixed ones: the requests of the current minute
and that share of the last minute's which is still within sixty seconds. Refused requests are not
counted, so who keeps asking is let in again. Methods block.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from deployments.errors import ServiceError
from serve_app.jobs.protocol import JobRequest, KeyAllowance
from serve_app.jobs.rows import QUEUED, RUNNING
from serve_app.jobs.tables import Database, jobs, key_usage

WINDOW_S = 60.0


class KeyUsage:
    """The ``key_usage`` table."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def take(self, key: str, limit: int) -> KeyAllowance:
        """Count one request of a key, unless ``limit`` requests a minute are used up."""
        try:
            return self._take(key, limit)
        except IntegrityError:  # another replica has begun this minute's row in this moment
            return self._take(key, limit)

    def _take(self, key: str, limit: int) -> KeyAllowance:
        now = self._clock()
        bucket, gone = int(now // WINDOW_S), now % WINDOW_S
        with self._database.writing() as connection:
            current, last = (_count(connection, key, number) for number in (bucket, bucket - 1))
            used = current + last * (1 - gone / WINDOW_S)
            if used + 1 > limit:
                wait = _seconds_until_room(current, last, gone, limit)
                return KeyAllowance(allowed=False, limit=limit, remaining=0, reset_s=wait)
            if current == 0:
                connection.execute(insert(key_usage).values(key=key, bucket=bucket, count=1))
                old = (key_usage.c.key == key) & (key_usage.c.bucket < bucket - 1)
                connection.execute(delete(key_usage).where(old))
            else:
                mine = (key_usage.c.key == key) & (key_usage.c.bucket == bucket)
                connection.execute(
                    update(key_usage).where(mine).values(count=key_usage.c.count + 1)
                )
        remaining = math.floor(limit - used - 1)
        return KeyAllowance(
            allowed=True, limit=limit, remaining=remaining, reset_s=math.ceil(WINDOW_S - gone)
        )


def check_unfinished(connection: Connection, request: JobRequest) -> None:
    """Refuse a job whose key has as many unfinished ones as it may.

    :raises ServiceError: ``too_many_jobs``.
    """
    limit = request.jobs_at_once
    if limit is None or request.owner is None:
        return
    own = connection.execute(
        select(func.count())
        .select_from(jobs)
        .where(jobs.c.owner == request.owner, jobs.c.status.in_((QUEUED, RUNNING)))
    ).scalar_one()
    if own >= limit:
        raise ServiceError(
            f"{own} jobs of this API key wait or run, and it may have {limit}: wait until one is "
            "done, or cancel one",
            code="too_many_jobs",
            unfinished=own,
            limit=limit,
        )


def _count(connection: Connection, key: str, bucket: int) -> int:
    found = connection.execute(
        select(key_usage.c.count)
        .where(key_usage.c.key == key, key_usage.c.bucket == bucket)
        .with_for_update()
    ).scalar_one_or_none()
    return int(found or 0)


def _seconds_until_room(current: int, last: int, gone: float, limit: int) -> int:
    """When one more request fits: as the last minute leaves the window, or the current one does."""
    free = limit - 1 - current  # how many of the last minute may still count
    if free >= 0 and last > 0:
        wait = WINDOW_S * (1 - free / last) - gone
    else:
        wait = WINDOW_S - gone + WINDOW_S * (1 - (limit - 1) / current)
    return max(1, math.ceil(wait))
