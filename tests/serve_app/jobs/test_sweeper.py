"""serve_app/jobs/sweeper.py: what goes, when, and that a sweeper may die or be two."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clock import Clock
from sqlalchemy import select

from deployments.errors import ServiceError
from serve_app.jobs.protocol import JobStatus
from serve_app.jobs.sweeper import LEASE_S, Sweeper
from serve_app.jobs.tables import Database, events, jobs, webhook_deliveries
from serve_app.storage import Storage, open_storage

TOMBSTONE_S = 1000.0


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "files"))


@pytest.fixture
def sweeper(database: Database, storage: Storage, clock: Clock) -> Sweeper:
    return Sweeper(database, storage, tombstone_s=lambda: TOMBSTONE_S, clock=clock)


@pytest.fixture
def ended(submit, claims, storage):
    """Makes a job with a picture, a result file, and an end."""

    def make(job: str, status: JobStatus = JobStatus.SUCCEEDED, **request: object) -> None:
        submit(job, **request)
        storage.write(f"{job}/input.png", b"picture")
        claim = claims.claim("r", 10)
        assert claim.job == job
        storage.write(f"{job}/1/manifest.json", b"{}")
        claims.finish(
            job, claim.fence, status, ("result", {}), files={"manifest.json": f"{job}/1/m.json"}
        )

    return make


def test_a_job_with_time_left_keeps_everything(sweeper, storage, ended):
    ended("a", terms={"keep_for": 60})
    assert sweeper.sweep() == 0
    assert storage.list("a") == ["a/1/manifest.json", "a/input.png"]


def test_an_expired_job_leaves_a_tombstone_and_then_nothing(
    sweeper, storage, ended, store, database, clock
):
    ended("a", terms={"keep_for": 60, "webhook_url": "https://example.com/hook"})
    clock.now += 60
    assert sweeper.sweep() == 1
    assert storage.list("a") == []
    assert sweeper.sweep() == 0, "once is enough"
    with pytest.raises(ServiceError) as caught:
        store.get("a")
    assert caught.value.code == "job_expired"
    storage.write("a/1/late.png", b"by a runner that was believed dead")
    clock.now += TOMBSTONE_S
    assert sweeper.sweep() == 1
    assert storage.list("a") == []
    with pytest.raises(ServiceError) as caught:
        store.get("a")
    assert caught.value.code == "not_found"
    with database.reading() as connection:
        for table in (jobs, events, webhook_deliveries):
            assert connection.execute(select(table)).all() == []


@pytest.mark.parametrize("status", [JobStatus.SUCCEEDED, JobStatus.FAILED])
def test_a_picture_that_is_not_kept_goes_at_the_end(sweeper, storage, ended, store, status):
    ended("a", status, terms={"keep_input": False})
    assert sweeper.sweep() == 1
    assert storage.list("a") == ["a/1/manifest.json"]
    assert sweeper.sweep() == 0
    assert store.get("a").files != {}


def test_a_picture_stays_while_its_job_needs_it(sweeper, storage, submit, claims):
    submit("a", terms={"keep_input": False})
    storage.write("a/input.png", b"picture")
    assert sweeper.sweep() == 0
    claims.claim("r", 10)
    assert sweeper.sweep() == 0
    assert storage.list("a") == ["a/input.png"]


def test_a_cancelled_job_is_swept_at_once_and_seen_until_it_expires(
    sweeper, storage, submit, store, clock
):
    submit("a", terms={"keep_for": 5000})
    storage.write("a/input.png", b"picture")
    store.cancel("a")
    assert sweeper.sweep() == 1
    assert storage.list("a") == []
    clock.now += 4000
    assert sweeper.sweep() == 0
    assert store.get("a").status is JobStatus.CANCELLED
    clock.now += 1000 + TOMBSTONE_S
    assert sweeper.sweep() == 1
    with pytest.raises(ServiceError):
        store.get("a")


def test_one_job_alone_can_be_swept(sweeper, storage, ended, store):
    for job in "ab":
        ended(job)
        store.remove(job)
    assert sweeper.sweep("a") == 1
    assert storage.list("a") == []
    assert storage.list("b") != []


def test_what_storage_refuses_is_tried_again(sweeper, storage, ended, store, monkeypatch, clock):
    ended("a")
    store.remove("a")

    def away(path: str) -> None:
        raise ServiceError("no route", code="storage_unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "delete", away)
        assert sweeper.sweep() == 1
    assert storage.list("a") != []
    assert sweeper.sweep() == 0, "not before the lease is over"
    clock.now += LEASE_S + 1
    assert sweeper.sweep() == 1
    assert storage.list("a") == []


def test_many_sweepers_share_the_work(database, storage, clock, submit, store):
    for number in range(60):
        submit(f"j{number}")
        store.cancel(f"j{number}")
    sweepers = [
        Sweeper(database, storage, tombstone_s=lambda: TOMBSTONE_S, clock=clock) for _ in range(4)
    ]
    with ThreadPoolExecutor(4) as threads:
        shares = list(threads.map(lambda one: one.sweep(), sweepers))
    assert sum(shares) == 60
