from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from serve_app.jobs.claims import ClaimStore, FenceLost
from serve_app.jobs.protocol import JobStatus
from serve_app.jobs.tables import Database


def test_the_oldest_job_is_claimed_first(claims, submit):
    submit("b")
    submit("a")
    assert [claims.claim("r", 10).job for _ in range(2)] == ["b", "a"]
    assert claims.claim("r", 10) is None


def test_priority_comes_before_age(claims, submit, clock):
    submit("old")
    submit("urgent", terms={"priority": 5})
    submit("later", terms={"priority": -1})
    submit("also", terms={"priority": 5})
    first = claims.claim("dead", 10)
    assert first.job == "urgent"
    clock.now += 11
    order = [claims.claim("r", 10).job for _ in range(4)]
    assert order == ["urgent", "also", "old", "later"], "a job that comes back keeps its place"


def test_an_expired_lease_frees_the_job_for_another_fence(claims, clock, submit):
    submit("a")
    first = claims.claim("dead", 10)
    clock.now += 9
    assert claims.claim("heir", 10) is None
    clock.now += 2
    second = claims.claim("heir", 10)
    assert (second.job, second.fence) == ("a", first.fence + 1)


def test_renewing_keeps_a_lease_and_tells_of_cancellation(claims, store, clock, submit):
    submit("a")
    claim = claims.claim("r", 10)
    clock.now += 9
    assert claims.renew({"a": claim.fence, "other": 1}, 10) == {"a": False}
    clock.now += 9
    assert claims.claim("heir", 10) is None
    store.cancel("a")
    assert claims.renew({"a": claim.fence}, 10) == {"a": True}


def test_a_late_runner_changes_nothing(claims, store, clock, submit):
    submit("a")
    late = claims.claim("late", 10)
    clock.now += 11
    heir = claims.claim("heir", 10)
    for write in (
        lambda: claims.note("a", late.fence, "step", {"step": 1}, step=1),
        lambda: claims.started("a", late.fence, "stage1"),
        lambda: claims.finish("a", late.fence, JobStatus.FAILED, ("failed", {})),
        lambda: claims.release("a", late.fence),
        lambda: claims.take_again("a", late.fence),
    ):
        with pytest.raises(FenceLost):
            write()
    assert claims.renew({"a": late.fence}, 10) == {}
    assert claims.alive("a", late.fence) == 0
    view = store.get("a")
    assert (view.status, view.step, view.attempt) == (JobStatus.RUNNING, 0, 0)
    assert claims.alive("a", heir.fence) == 10
    assert [event.kind for event in store.events("a", 0)[0]] == ["queued"]


def test_attempts_count_starts_and_not_claims(claims, store, clock, submit):
    submit("a")
    for _ in range(3):
        claims.claim("r", 10)
        clock.now += 11
    claim = claims.claim("r", 10)
    assert claim.attempt == 0
    assert claims.started("a", claim.fence, "stage1") == 1
    assert claims.started("a", claim.fence, "stage2") == 1, "the same attempt goes on"
    again = claims.take_again("a", claim.fence)
    assert claims.started("a", again.fence, "stage2") == 2
    kinds = [event.kind for event in store.events("a", 0)[0]]
    assert kinds == ["queued", "started", "started"]


def test_what_stage1_stored_survives_the_runner(claims, clock, submit):
    submit("a")
    claim = claims.claim("r", 10)
    done = {"stage": "stage1", "state": "completed"}
    stored = {"stage1_result": "a/1/stage1.npz", "seconds": {"stage1": 3.5}}
    claims.note("a", claim.fence, "stage", done, **stored)
    clock.now += 11
    heir = claims.claim("heir", 10)
    assert (heir.stage1_result, heir.seconds) == ("a/1/stage1.npz", {"stage1": 3.5})


def test_released_jobs_wait_again_and_cancelled_ones_end(claims, store, submit):
    for job in "ab":
        submit(job)
        claims.claim("r", 10)
    store.cancel("b")
    claims.release("a", 1)
    claims.release("b", 1)
    assert store.get("a").status is JobStatus.QUEUED
    assert store.get("b").status is JobStatus.CANCELLED
    assert claims.claim("r", 10).job == "a"


def test_cancellation_outlives_the_runner_that_should_have_obeyed(claims, store, clock, submit):
    submit("a")
    submit("b")
    claims.claim("dead", 10)
    store.cancel("a")
    clock.now += 11
    assert claims.claim("heir", 10).job == "b"
    assert store.get("a").status is JobStatus.CANCELLED


def test_threads_never_share_a_job(claims, submit):
    for number in range(60):
        submit(f"j{number:02}")
    start = threading.Barrier(6)

    def take_all(_: int) -> list[str]:
        start.wait()
        taken = []
        while (claim := claims.claim("r", 60)) is not None:
            taken.append(claim.job)
        return taken

    with ThreadPoolExecutor(6) as threads:
        taken = [job for jobs in threads.map(take_all, range(6)) for job in jobs]
    assert sorted(taken) == [f"j{number:02}" for number in range(60)]


def take_all_in_process(url: str) -> list[str]:
    database = Database(url)
    claims = ClaimStore(database)
    taken = []
    while (claim := claims.claim("r", 60)) is not None:
        taken.append(claim.job)
    database.close()
    return taken


def test_processes_never_share_a_job(database_url: str, submit):
    for number in range(60):
        submit(f"j{number:02}")
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as processes:
        taken = [
            job for jobs in processes.map(take_all_in_process, [database_url] * 3) for job in jobs
        ]
    assert sorted(taken) == [f"j{number:02}" for number in range(60)]
