"""serve_app/jobs/deliveries.py: what is due, one carrier a message, the log in the job."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from clock import Clock

from deployments.errors import ServiceError
from serve_app.jobs.claims import ClaimStore
from serve_app.jobs.deliveries import DeliveryStore
from serve_app.jobs.protocol import JobStatus, JobTerms
from serve_app.jobs.store import JobStore
from serve_app.jobs.tables import Database

TERMS = JobTerms(webhook_url="https://example.com/x", webhook_events=("queued", "result"))


@pytest.fixture
def deliveries(database: Database, clock: Clock) -> DeliveryStore:
    return DeliveryStore(database, clock=clock)


def test_only_chosen_events_of_jobs_with_a_webhook(
    submit: Callable[..., object], claims: ClaimStore, deliveries: DeliveryStore
) -> None:
    submit("plain")
    submit("told", terms=TERMS)
    for _ in range(2):
        claim = claims.claim("r", 30)
        assert claim is not None
        claims.note(claim.job, claim.fence, "stage", {"stage": "stage1", "state": "running"})
        claims.finish(claim.job, claim.fence, JobStatus.SUCCEEDED, ("result", {"n": 1}))
    due = deliveries.take("a", 60, 10)
    assert [(one.event, one.url, one.attempt) for one in due] == [
        ("queued", "https://example.com/x", 1),
        ("result", "https://example.com/x", 1),
    ]
    assert due[1].body["job_id"] == "told"
    assert due[1].body["n"] == 1


def test_one_carrier_at_a_time_until_its_lease_is_over(
    submit: Callable[..., object], deliveries: DeliveryStore, clock: Clock
) -> None:
    submit("told", terms=TERMS)
    (mine,) = deliveries.take("a", 60, 10)
    assert deliveries.take("b", 60, 10) == []
    clock.now += 61
    (its,) = deliveries.take("b", 60, 10)
    assert (its.id, its.attempt) == (mine.id, 1)
    deliveries.delivered(mine, "a", 200)  # too late: the message is b's by now
    assert deliveries.take("c", 60, 10) == []
    deliveries.failed(its, "b", status=500, error="answered 500", again_in_s=0.0)
    assert [one.attempt for one in deliveries.take("c", 60, 10)] == [2]


def test_the_log_is_part_of_the_job(
    submit: Callable[..., object], store: JobStore, deliveries: DeliveryStore, clock: Clock
) -> None:
    submit("plain")
    assert store.get("plain").webhook is None
    submit("told", terms=TERMS)
    (first,) = deliveries.take("a", 60, 10)
    deliveries.failed(first, "a", status=503, error="answered 503", again_in_s=30.0)
    report = store.get("told").webhook
    assert report is not None
    assert (report.url, report.events) == (TERMS.webhook_url, TERMS.webhook_events)
    (entry,) = report.deliveries
    assert (entry.id, entry.event, entry.attempts) == (first.id, "queued", 1)
    assert (entry.last_status, entry.last_error) == (503, "answered 503")
    assert entry.next_at == clock.now + 30

    assert deliveries.take("a", 60, 10) == []
    clock.now += 31
    (second,) = deliveries.take("a", 60, 10)
    deliveries.delivered(second, "a", 204)
    report = store.get("told").webhook
    assert report is not None
    (entry,) = report.deliveries
    assert (entry.attempts, entry.delivered_at, entry.next_at) == (2, clock.now, None)


def test_what_was_given_up_is_never_due_again(
    submit: Callable[..., object], deliveries: DeliveryStore, clock: Clock
) -> None:
    submit("told", terms=TERMS)
    (first,) = deliveries.take("a", 60, 10)
    deliveries.failed(first, "a", status=410, error="answered 410", again_in_s=None)
    clock.now += 10**7
    assert deliveries.take("a", 60, 10) == []


def test_a_refused_job_is_not_told_of(
    submit: Callable[..., object], deliveries: DeliveryStore
) -> None:
    for number in range(2):
        submit(f"job{number}", owner="k", terms=TERMS)
    with pytest.raises(ServiceError):
        submit("one too many", owner="k", terms=TERMS)
    told = {one.body["job_id"] for one in deliveries.take("a", 60, 10)}
    assert told == {"job0", "job1"}
