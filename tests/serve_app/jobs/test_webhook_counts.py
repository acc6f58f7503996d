"""Deliveries of webhooks are counted by what came of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from serve_app.jobs.deliveries import Delivery, DeliveryStore
from serve_app.jobs.webhooks import Told, WebhookCarrier
from serve_app.metrics.catalogue import WEBHOOKS, Metric


class Answers:
    """A sender whose receivers answer in turn."""

    timeout_s = 1.0

    def __init__(self, *told: Told) -> None:
        self._told: Iterator[Told] = iter(told)

    async def send(self, delivery: Delivery) -> Told:
        return next(self._told)


class Counted:
    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def record(self, metric: Metric, value: float = 1.0, /, **labels: str) -> None:
        assert metric is WEBHOOKS
        self.outcomes.append(labels["outcome"])


@pytest.mark.parametrize(
    ("attempt", "told", "outcome"),
    [
        (1, Told(204), "delivered"),
        (1, Told(500, "answered 500"), "retry"),
        (1, Told(None, "no answer"), "retry"),
        (2, Told(500, "answered 500"), "given_up"),
        (1, Told(410, "answered 410"), "given_up"),
    ],
)
async def test_an_attempt_counts_once(
    database: Any, attempt: int, told: Told, outcome: str
) -> None:
    counted = Counted()
    sender: Any = Answers(told)
    carrier = WebhookCarrier("x", DeliveryStore(database), sender, (1.0,), counted)
    await carrier.carry(Delivery("m", "http://h/", "result", {"job_id": "a"}, attempt))
    assert counted.outcomes == [outcome]
