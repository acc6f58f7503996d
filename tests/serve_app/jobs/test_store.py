from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from deployments.errors import ServiceError
from serve_app.jobs.claims import ClaimStore
from serve_app.jobs.protocol import JobStatus
from serve_app.jobs.store import JobStore


def test_a_submitted_job_waits_in_line_with_its_first_event(store, submit):
    submit("a")
    second = submit("b")

    assert second.status is JobStatus.QUEUED
    assert [store.get(job).queue_position for job in "ab"] == [1, 2]
    events, over = store.events("a", 0)
    assert [(event.seq, event.kind) for event in events] == [(1, "queued")]
    assert not over


def test_an_unknown_job_is_named(store):
    for call in (store.get, store.cancel, lambda job: store.events(job, 0)):
        with pytest.raises(ServiceError, match="no job 'nobody'") as caught:
            call("nobody")
        assert caught.value.code == "not_found"


def test_the_same_key_and_request_find_the_job(store, submit):
    submit("a", idempotency_key="k", digest="d", owner="o")
    again = submit("b", idempotency_key="k", digest="d", owner="o")

    assert again.id == "a"
    assert store.counts()[JobStatus.QUEUED] == 1


def test_the_same_key_with_another_picture_is_a_conflict(submit):
    submit("a", idempotency_key="k", digest="d")
    with pytest.raises(ServiceError) as caught:
        submit("b", idempotency_key="k", digest="other")
    assert caught.value.code == "idempotency_conflict"
    assert caught.value.detail["job_id"] == "a"


def test_a_key_finds_its_job_for_a_time(store, submit, clock):
    submit("a", idempotency_key="k", digest="d")
    clock.now += 98
    assert submit("b", idempotency_key="k", digest="d", key_kept_s=100).id == "a"
    clock.now += 2
    assert submit("c", idempotency_key="k", digest="another", key_kept_s=100).id == "c"
    assert submit("d", idempotency_key="k", digest="another", key_kept_s=100).id == "c"
    assert store.get("a").status is JobStatus.QUEUED


def test_the_key_of_a_removed_job_says_so(store, submit):
    submit("a", idempotency_key="k", digest="d")
    store.cancel("a")
    store.remove("a")
    with pytest.raises(ServiceError) as caught:
        submit("b", idempotency_key="k", digest="d")
    assert caught.value.code == "job_expired"


def test_two_owners_may_use_one_key(submit):
    submit("a", idempotency_key="k", owner="o")
    assert submit("b", idempotency_key="k", owner="p").id == "b"


def test_submitting_a_job_twice_records_it_once(store, submit):
    submit("a")
    submit("a")
    assert store.counts()[JobStatus.QUEUED] == 1


def test_the_same_key_at_the_same_moment_makes_one_job(store, submit):
    start = threading.Barrier(6)

    def submit_one(number: int) -> str:
        start.wait()
        return submit(f"j{number}", idempotency_key="k", digest="d").id

    with ThreadPoolExecutor(6) as threads:
        ids = set(threads.map(submit_one, range(6)))
    assert len(ids) == 1
    assert store.counts()[JobStatus.QUEUED] == 1


def test_a_full_queue_refuses(store, submit):
    submit("a", owner="o")
    submit("b", owner="o")
    with pytest.raises(ServiceError, match="2 jobs of this API key") as caught:
        submit("c", owner="o")
    assert caught.value.code == "queue_full"
    assert submit("d", owner="p").id == "d"


def test_a_queued_job_is_cancelled_at_once(store, submit):
    submit("a")
    assert store.cancel("a").status is JobStatus.CANCELLED
    events, over = store.events("a", 1)
    assert [event.kind for event in events] == ["cancelled"]
    assert over


def test_others_do_not_see_a_job(store, submit):
    submit("a", owner="o")
    for call in (store.get, store.cancel, store.remove):
        with pytest.raises(ServiceError) as caught:
            call("a", "p")
        assert caught.value.code == "not_found"
    assert store.get("a", "o").owner == "o"
    assert store.get("a").status is JobStatus.QUEUED, "it was neither cancelled nor removed"


def test_places_in_line_follow_priority(store, submit):
    submit("a")
    submit("b", terms={"priority": 5})
    submit("c", terms={"priority": -1})
    submit("d", terms={"priority": 5})
    assert {job: store.get(job).queue_position for job in "abcd"} == {
        "b": 1,
        "d": 2,
        "a": 3,
        "c": 4,
    }


def test_an_ended_job_expires(store, claims, submit, clock):
    submit("a", terms={"keep_for": 60})
    claim = claims.claim("r", 10)
    claims.finish("a", claim.fence, JobStatus.SUCCEEDED, ("result", {}))
    assert store.get("a").expires_at == clock.now + 60
    clock.now += 59
    assert store.get("a").status is JobStatus.SUCCEEDED
    clock.now += 1
    for call in (store.get, store.cancel, store.remove):
        with pytest.raises(ServiceError) as caught:
            call("a")
        assert caught.value.code == "job_expired"
        assert caught.value.detail["ended_as"] == "succeeded"


def test_a_job_kept_without_a_limit_stays(store, claims, submit, clock):
    submit("a", terms={"keep_for": None})
    claim = claims.claim("r", 10)
    claims.finish("a", claim.fence, JobStatus.SUCCEEDED, ("result", {}))
    clock.now += 1e9
    assert store.get("a").expires_at is None


def test_removing_an_ended_job_is_its_expiry(store, claims, submit):
    submit("a")
    claim = claims.claim("r", 10)
    claims.finish("a", claim.fence, JobStatus.SUCCEEDED, ("result", {}))
    assert store.remove("a").status is JobStatus.SUCCEEDED
    with pytest.raises(ServiceError) as caught:
        store.get("a")
    assert caught.value.code == "job_expired"


def test_a_running_job_that_is_removed_leaves_no_result(store, claims, submit):
    submit("a")
    claim = claims.claim("r", 10)
    assert store.remove("a").status is JobStatus.RUNNING
    claims.finish("a", claim.fence, JobStatus.SUCCEEDED, ("result", {}))
    with pytest.raises(ServiceError) as caught:
        store.get("a")
    assert caught.value.code == "job_expired"


def test_a_queued_job_that_is_removed_is_seen_as_cancelled(store, submit):
    submit("a")
    assert store.remove("a").status is JobStatus.CANCELLED
    assert store.get("a").status is JobStatus.CANCELLED


def test_a_running_job_is_only_asked_to_stop(store: JobStore, claims: ClaimStore, submit):
    submit("a")
    claims.claim("r", 10)
    view = store.cancel("a")
    assert view.status is JobStatus.RUNNING
    assert view.cancel_requested


def test_a_finished_job_stays_as_it_is(store, claims, submit):
    submit("a")
    claim = claims.claim("r", 10)
    claims.finish("a", claim.fence, JobStatus.SUCCEEDED, ("result", {}), seconds={"stage1": 2.0})
    assert store.cancel("a").status is JobStatus.SUCCEEDED


def test_events_come_after_the_one_last_seen_and_end_with_the_job(store, claims, submit):
    submit("a")
    claim = claims.claim("r", 10)
    for step in range(3):
        claims.note("a", claim.fence, "step", {"step": step})
    found, over = store.events("a", 2, limit=1)
    assert [(event.seq, event.body) for event in found] == [(3, {"step": 1})]
    claims.finish("a", claim.fence, JobStatus.SUCCEEDED, ("result", {}))
    assert store.events("a", 2, limit=1)[1] is False, "the last event was not among them"
    found, over = store.events("a", 3)
    assert [event.kind for event in found] == ["step", "result"]
    assert over


def test_estimates_are_medians_of_jobs_that_succeeded(store, claims, submit):
    for number, seconds in enumerate((1.0, 2.0, 90.0)):
        submit(f"j{number}")
        claim = claims.claim("r", 10)
        ends = {"stage1": seconds}
        claims.finish(claim.job, claim.fence, JobStatus.SUCCEEDED, ("result", {}), seconds=ends)
    submit("bad")
    claim = claims.claim("r", 10)
    claims.finish("bad", claim.fence, JobStatus.FAILED, ("failed", {}), seconds={"stage1": 500.0})
    assert store.median_seconds() == {"stage1": 2.0}
