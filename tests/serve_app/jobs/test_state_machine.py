"""No sequence of claims, crashes, renewals, cancels and finishes loses a job or lets two write."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from clock import Clock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from deployments.contracts import GenerationOptions
from serve_app.jobs.claims import Claim, ClaimStore, FenceLost
from serve_app.jobs.protocol import JobRequest, JobStatus
from serve_app.jobs.store import JobStore
from serve_app.jobs.tables import Database
from serve_app.options import options_as_json

LEASE = 10.0
ENDS = ("result", "failed", "cancelled")


class JobMachine(RuleBasedStateMachine):
    """Runners that come late, die and return, against what the table must say.

    ``holder`` is the model: which fence may write to a job, None when nobody may.
    """

    jobs: Any = Bundle("jobs")
    claimed: Any = Bundle("claimed")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database(f"sqlite:///{Path(self.folder.name) / 'jobs.db'}")
        self.clock = Clock()
        self.store = JobStore(self.database, clock=self.clock)
        self.claims = ClaimStore(self.database, clock=self.clock)
        self.holder: dict[str, int | None] = {}
        self.lease_ends: dict[str, float] = {}
        self.cancelling: set[str] = set()

    def teardown(self) -> None:
        self.everything_comes_to_an_end()
        self.database.close()
        self.folder.cleanup()

    @rule(target=jobs)
    def submit(self) -> str:
        self.clock.now += 1
        job = f"j{len(self.holder)}"
        request = JobRequest(
            job_id=job, input_path="i", options=options_as_json(GenerationOptions())
        )
        self.store.submit(request, max_attempts=3, max_queued=1000, max_queued_of_owner=1000)
        self.holder[job] = None
        return job

    @rule(target=claimed, runner=st.sampled_from(["r1", "r2"]))
    def claim(self, runner: str) -> Claim | None:
        claim = self.claims.claim(runner, LEASE)
        if claim is not None:
            before = self.holder[claim.job]
            free = before is None or self.lease_ends[claim.job] < self.clock.now
            assert free, "a job with a lease was taken away"
            assert before is None or claim.fence > before
            assert claim.job not in self.cancelling
            self.holder[claim.job] = claim.fence
            self.lease_ends[claim.job] = self.clock.now + LEASE
        self._forget_cancelled_of_the_dead()
        return claim

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(claim=claimed)
    def renew(self, claim: Claim | None) -> None:
        if claim is None:
            return
        held = self.claims.renew({claim.job: claim.fence}, LEASE)
        assert (claim.job in held) == self._may_write(claim)
        if held:
            assert held[claim.job] == (claim.job in self.cancelling)
            self.lease_ends[claim.job] = self.clock.now + LEASE

    @rule(claim=claimed, kind=st.sampled_from(["step", "started", "finish", "release", "again"]))
    def write(self, claim: Claim | None, kind: str) -> None:
        if claim is None:
            return
        allowed = self._may_write(claim)
        job, fence = claim.job, claim.fence
        try:
            if kind == "step":
                self.claims.note(job, fence, "step", {"by": fence}, step=1)
            elif kind == "started":
                self.claims.started(job, fence, "stage1")
            elif kind == "finish":
                self.claims.finish(job, fence, JobStatus.SUCCEEDED, ("result", {}))
            elif kind == "release":
                self.claims.release(job, fence)
            else:
                self.claims.take_again(job, fence)
        except FenceLost:
            assert not allowed, "the owner was refused"
            return
        assert allowed, f"a fence that is over could {kind}"
        if kind == "again":
            self.holder[job] = fence + 1
        elif kind in ("finish", "release"):
            self.holder[job] = None
            self.cancelling.discard(job)

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        view = self.store.cancel(job)
        if view.status is JobStatus.RUNNING:
            self.cancelling.add(job)
        else:
            assert view.status.final
            self.holder[job] = None

    @invariant()
    def events_are_whole(self) -> None:
        for job in self.holder:
            found, over = self.store.events(job, 0)
            assert [event.seq for event in found] == list(range(1, len(found) + 1))
            ends = [event for event in found if event.kind in ENDS]
            assert len(ends) == (1 if self.store.get(job).status.final else 0)
            assert over == bool(ends)
            if ends:
                assert found[-1] is ends[0], "something was written after the end"

    def everything_comes_to_an_end(self) -> None:
        """However it was left: runners that work find every job and can finish it."""
        self.clock.now += 1000
        while (claim := self.claims.claim("last", LEASE)) is not None:
            self.claims.finish(claim.job, claim.fence, JobStatus.SUCCEEDED, ("result", {}))
        assert all(self.store.get(job).status.final for job in self.holder)

    def _may_write(self, claim: Claim) -> bool:
        return self.holder[claim.job] == claim.fence

    def _forget_cancelled_of_the_dead(self) -> None:
        """A claim ends expired jobs whose cancellation was asked for on its way."""
        for job in list(self.cancelling):
            if self.store.get(job).status.final:
                assert self.lease_ends[job] < self.clock.now
                self.holder[job] = None
                self.cancelling.discard(job)


JobMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestJobs = JobMachine.TestCase
