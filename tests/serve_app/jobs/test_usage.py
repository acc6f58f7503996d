"""serve_app/jobs/usage.py: a sliding minute and unfinished jobs, on both databases."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from deployments.errors import ServiceError
from serve_app.jobs.protocol import JobStatus
from serve_app.jobs.usage import KeyUsage

START = 1_000_020.0  # 60 s windows begin at 999_960 and 1_000_020


@pytest.fixture
def usage(database: Any, clock: Any) -> KeyUsage:
    clock.now = START
    return KeyUsage(database, clock=clock)


def test_a_key_may_do_so_much_and_no_more(usage: KeyUsage) -> None:
    left = [usage.take("anna", 3).remaining for _ in range(3)]
    assert left == [2, 1, 0]
    refused = usage.take("anna", 3)
    assert (refused.allowed, refused.remaining, refused.limit) == (False, 0, 3)
    assert usage.take("ben", 3).allowed, "another key's minute is its own"


def test_refused_requests_do_not_count(usage: KeyUsage, clock: Any) -> None:
    for _ in range(3):
        usage.take("anna", 3)
    for _ in range(50):
        assert not usage.take("anna", 3).allowed
    clock.now += 60 + 20.5
    assert usage.take("anna", 3).allowed


@pytest.mark.parametrize("moment", [0.0, 13.7, 59.0])
@pytest.mark.parametrize("limit", [1, 3, 10])
def test_who_comes_back_when_told_is_let_in(
    usage: KeyUsage, clock: Any, moment: float, limit: int
) -> None:
    clock.now += moment
    while usage.take("anna", limit).allowed:
        pass
    for _ in range(5):
        refused = usage.take("anna", limit)
        clock.now += refused.reset_s - 1.5
        assert refused.reset_s < 2 or not usage.take("anna", limit).allowed
        clock.now += 1.5
        assert usage.take("anna", limit).allowed
        while usage.take("anna", limit).allowed:
            pass


def test_a_burst_at_the_border_of_two_minutes_is_one_burst(usage: KeyUsage, clock: Any) -> None:
    clock.now += 59
    assert sum(usage.take("anna", 10).allowed for _ in range(20)) == 10
    clock.now += 2
    assert sum(usage.take("anna", 10).allowed for _ in range(20)) == 0
    clock.now += 31
    assert sum(usage.take("anna", 10).allowed for _ in range(20)) == 5


def test_replicas_that_count_at_once_lose_nothing(database: Any) -> None:
    allowed: list[bool] = []

    def replica() -> None:
        mine = KeyUsage(database, clock=lambda: START)
        allowed.extend(mine.take("anna", 30).allowed for _ in range(15))

    threads = [threading.Thread(target=replica) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(allowed), sum(allowed)) == (60, 30)


def test_unfinished_jobs_of_a_key_are_bounded(submit: Any, claims: Any) -> None:
    submit("a", owner="anna", jobs_at_once=2)
    submit("b", owner="anna", jobs_at_once=2)
    claim = claims.claim("r", 10)
    with pytest.raises(ServiceError, match="2 jobs of this API key wait or run") as refused:
        submit("c", owner="anna", jobs_at_once=2)
    assert (refused.value.code, refused.value.detail["limit"]) == ("too_many_jobs", 2)
    submit("d", owner="ben", jobs_at_once=2)
    claims.finish(claim.job, claim.fence, JobStatus.FAILED, ("failed", {}))
    submit("c", owner="anna", jobs_at_once=2)
