"""serve_app/jobs/listing.py: jobs newest first, page by page."""

from __future__ import annotations

import pytest
from clock import Clock

from deployments.errors import InputError
from serve_app.jobs.listing import list_jobs
from serve_app.jobs.protocol import JobPage, JobQuery, JobStatus
from serve_app.jobs.tables import Database


@pytest.fixture
def page(database: Database, clock: Clock):
    def ask(**query: object) -> JobPage:
        return list_jobs(database, JobQuery.model_validate(query), clock.now)

    return ask


def ids(page: JobPage) -> str:
    return "".join(view.id for view in page.jobs)


def test_newest_first_in_pages_that_newcomers_do_not_shift(submit, page):
    for job in "abcde":
        submit(job)
    first = page(limit=2)
    assert ids(first) == "ed"
    submit("f")
    second = page(limit=2, cursor=first.next)
    assert ids(second) == "cb"
    last = page(limit=2, cursor=second.next)
    assert (ids(last), last.next) == ("a", None)


def test_jobs_of_one_moment_are_each_listed_once(submit, page, clock):
    for job in "abc":
        submit(job)
        clock.now -= 1
    seen, cursor = "", None
    for _ in range(3):
        found = page(limit=1, cursor=cursor)
        seen, cursor = seen + ids(found), found.next
    assert (seen, cursor) == ("cba", None)


def test_by_owner_status_and_time(submit, page, claims, clock):
    submit("a", owner="o")
    submit("b", owner="p")
    submit("c", owner="o")
    claim = claims.claim("r", 10)
    claims.finish(claim.job, claim.fence, JobStatus.FAILED, ("failed", {}))
    assert ids(page()) == "cba"
    assert ids(page(owner="o")) == "ca"
    assert ids(page(owner="nobody")) == ""
    assert ids(page(statuses=["failed"])) == "a"
    assert ids(page(statuses=["failed", "queued"], owner="o")) == "ca"
    assert ids(page(created_after=clock.now)) == "c"
    assert ids(page(created_before=clock.now, created_after=clock.now - 1)) == "b"


def test_what_has_expired_is_not_listed(submit, page, store, claims, clock):
    submit("a", terms={"keep_for": 10})
    submit("b")
    store.cancel("a")
    clock.now += 10
    assert ids(page()) == "b"


@pytest.mark.parametrize("cursor", ["", "%%%", "bm90IGpzb24", "WzFd", "eyJhIjoxfQ", "Ä"])
def test_a_cursor_from_elsewhere_is_refused(page, cursor):
    with pytest.raises(InputError) as caught:
        page(cursor=cursor)
    assert caught.value.code == "cursor_invalid"
