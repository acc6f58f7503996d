"""The table of webhook deliveries: what is due, who carries it out, what became of it.

A row is written in the transaction of the event that it tells (rows.py). Whoever carries it out
takes it under a lease, so a replica that dies leaves it to another, and it is told at least once.
Methods block; callers on an event loop use ``asyncio.to_thread``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, select, update

from serve_app.jobs.protocol import WebhookDelivery, WebhookReport
from serve_app.jobs.tables import Database, jobs
from serve_app.jobs.tables import webhook_deliveries as deliveries


@dataclass(frozen=True)
class Delivery:
    """One message in the hands of one replica."""

    id: str
    url: str
    event: str
    body: dict[str, Any]
    attempt: int  # this one, from 1


class DeliveryStore:
    """The ``webhook_deliveries`` table for the replicas that carry them out."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def take(self, runner: str, lease_s: float, limit: int) -> list[Delivery]:
        """Messages that are due and that nobody has in hand, the longest due first."""
        now = self._clock()
        due = and_(deliveries.c.next_at <= now, deliveries.c.lease_until < now)
        wanted = select(deliveries).where(due).order_by(deliveries.c.next_at).limit(limit)
        with self._database.reading() as connection:  # nothing is due nearly always
            if connection.execute(wanted.limit(1)).first() is None:
                return []
        with self._database.writing() as connection:
            rows = connection.execute(wanted.with_for_update(skip_locked=True)).all()
            taken = deliveries.c.id.in_([row.id for row in rows])
            values = {"lease_until": now + lease_s, "runner": runner}
            connection.execute(update(deliveries).where(taken).values(**values))
        return [Delivery(row.id, row.url, row.event, row.body, row.attempt + 1) for row in rows]

    def delivered(self, delivery: Delivery, runner: str, status: int) -> None:
        """The receiver has it."""
        now = self._clock()
        self._note(delivery, runner, delivered_at=now, next_at=None, last_status=status)

    def failed(
        self,
        delivery: Delivery,
        runner: str,
        *,
        status: int | None,
        error: str,
        again_in_s: float | None,
    ) -> None:
        """The receiver does not have it. ``again_in_s`` None: it is given up."""
        next_at = None if again_in_s is None else self._clock() + again_in_s
        self._note(delivery, runner, next_at=next_at, last_status=status, last_error=error)

    def _note(self, delivery: Delivery, runner: str, **values: Any) -> None:
        """Write an outcome, unless another replica has the message in hand by now."""
        mine = and_(deliveries.c.id == delivery.id, deliveries.c.runner == runner)
        changes = {"attempt": delivery.attempt, "lease_until": 0.0, "runner": None, **values}
        with self._database.writing() as connection:
            connection.execute(update(deliveries).where(mine).values(**changes))


def webhook_report(connection: Connection, job_id: str) -> WebhookReport | None:
    """A job's webhook with its log, None for a job without."""
    job = connection.execute(
        select(jobs.c.webhook_url, jobs.c.webhook_events).where(jobs.c.id == job_id)
    ).first()
    if job is None or job.webhook_url is None:
        return None
    rows = connection.execute(
        select(deliveries).where(deliveries.c.job_id == job_id).order_by(deliveries.c.created_at)
    ).all()
    return WebhookReport(
        url=job.webhook_url,
        events=tuple(job.webhook_events or ()),
        deliveries=tuple(
            WebhookDelivery(
                id=row.id,
                event=row.event,
                created_at=row.created_at,
                attempts=row.attempt,
                delivered_at=row.delivered_at,
                next_at=row.next_at,
                last_status=row.last_status,
                last_error=row.last_error,
            )
            for row in rows
        ),
    )
