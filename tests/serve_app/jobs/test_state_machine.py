"""No sequence of claims, crashes, cancels, exports, expiry and sweeps loses a job, lets two write,
takes files that somebody may still read, or shows what is gone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clock import Clock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from deployments.contracts import GenerationOptions
from deployments.errors import ServiceError
from serve_app.jobs.claims import Claim, ClaimStore, FenceLost
from serve_app.jobs.protocol import JobKind, JobRequest, JobStatus, JobTerms
from serve_app.jobs.store import JobStore
from serve_app.jobs.sweeper import Sweeper
from serve_app.jobs.tables import Database
from serve_app.options import options_as_json
from serve_app.storage import open_storage

LEASE = 10.0
KEEP = 30.0
TOMBSTONE = 40.0
ENDS = ("result", "failed", "cancelled")
OPTIONS = options_as_json(GenerationOptions())


class JobMachine(RuleBasedStateMachine):
    """Runners that come late, die and return, against what the table must say.

    ``holder`` is the model: which fence may write to a job, None when nobody may. ``expiry`` has
    the jobs that have ended, ``forgotten`` those whose row has gone.
    """

    jobs: Any = Bundle("jobs")
    claimed: Any = Bundle("claimed")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database(f"sqlite:///{Path(self.folder.name) / 'jobs.db'}")
        self.storage = open_storage(Path(self.folder.name) / "files")
        self.clock = Clock()
        self.store = JobStore(self.database, clock=self.clock)
        self.claims = ClaimStore(self.database, clock=self.clock)
        self.sweeper = Sweeper(
            self.database, self.storage, tombstone_s=lambda: TOMBSTONE, clock=self.clock
        )
        self.holder: dict[str, int | None] = {}
        self.priority: dict[str, int] = {}
        self.lease_ends: dict[str, float] = {}
        self.cancelling: set[str] = set()
        self.ended: dict[str, JobStatus] = {}
        self.expiry: dict[str, float] = {}
        self.parent: dict[str, str] = {}
        self.forgotten: set[str] = set()

    def teardown(self) -> None:
        self.everything_comes_to_an_end()
        self.database.close()
        self.folder.cleanup()

    @rule(target=jobs, priority=st.sampled_from([-1, 0, 0, 5]))
    def submit(self, priority: int) -> str:
        job = self._new(priority)
        self.storage.write(f"{job}/input.png", b"picture")
        request = JobRequest(job_id=job, input_path=f"{job}/input.png", options=OPTIONS)
        self._submit(request, priority)
        return job

    @rule(target=jobs, parent=jobs)
    def export(self, parent: str) -> str:
        job = self._new(0)
        request = JobRequest(
            job_id=job, kind=JobKind.EXPORT, parent_id=parent, input_path="", options=OPTIONS
        )
        root = self.parent.get(parent, parent)
        possible = (
            self.ended.get(root) is JobStatus.SUCCEEDED
            and not self._gone(root)
            and not self._gone(parent)
        )
        refusal, _ = _asked(self._submit, request, 0)
        if refusal is not None:
            assert not possible, f"refused: {refusal}"
            del self.holder[job], self.priority[job]
            return parent
        assert possible, "an export of what is not there"
        self.parent[job] = root
        return job

    @rule(target=claimed, runner=st.sampled_from(["r1", "r2"]))
    def claim(self, runner: str) -> Claim | None:
        free = [job for job in self.holder if self._free(job) and job not in self.cancelling]
        claim = self.claims.claim(runner, LEASE)
        assert (claim is None) == (not free)
        if claim is not None:
            before = self.holder[claim.job]
            assert claim.job in free, "a job with a lease, or at its end, was taken"
            assert before is None or claim.fence > before
            turn = sorted(free, key=lambda job: (-self.priority[job], int(job[1:])))
            assert claim.job == turn[0], "another job was first"
            self.holder[claim.job] = claim.fence
            self.lease_ends[claim.job] = self.clock.now + LEASE
        self._forget_cancelled_of_the_dead()
        return claim

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0, 25.0]))
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

    @rule(
        claim=claimed,
        kind=st.sampled_from(["step", "started", "finish", "finish", "fail", "release", "again"]),
    )
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
                self._succeed(claim)
            elif kind == "fail":
                self.claims.finish(job, fence, JobStatus.FAILED, ("failed", {}))
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
        elif kind == "finish":
            self._end(job, JobStatus.SUCCEEDED, 0.0 if job in self.cancelling else KEEP)
        elif kind == "fail":
            self._end(job, JobStatus.FAILED)
        elif kind == "release":
            if job in self.cancelling:
                self._end(job, JobStatus.CANCELLED)
            self.holder[job] = None

    @rule(job=jobs, remove=st.booleans())
    def cancel(self, job: str, remove: bool) -> None:
        refusal, view = _asked(self.store.remove if remove else self.store.cancel, job)
        if refusal is not None:
            assert self._gone(job)
            assert refusal == ("not_found" if job in self.forgotten else "job_expired")
            return
        assert not self._gone(job)
        if view.status is JobStatus.RUNNING:
            self.cancelling.add(job)
        elif job not in self.ended:
            self._end(job, JobStatus.CANCELLED)
        elif remove:
            self.expiry[job] = self.clock.now

    @rule()
    def sweep(self) -> None:
        read = {
            self.parent[job] for job in self.parent if job in self.holder and job not in self.ended
        }
        self.sweeper.sweep()
        for job, status in self.ended.items():
            has_files = bool(self.storage.list(job))
            if status is JobStatus.CANCELLED or (self._gone(job) and job not in read):
                assert not has_files, "files that nobody may see were left"
        for job in self.ended:
            if not self._known(job):
                assert self.expiry[job] + TOMBSTONE <= self.clock.now, "forgotten too early"
                self.forgotten.add(job)

    @invariant()
    def events_are_whole(self) -> None:
        for job in self.holder:
            if job in self.forgotten:
                continue
            found, over = self.store.events(job, 0)
            assert [event.seq for event in found] == list(range(1, len(found) + 1))
            ends = [event for event in found if event.kind in ENDS]
            assert len(ends) == (1 if job in self.ended else 0)
            assert over == bool(ends)
            if ends:
                assert found[-1] is ends[0], "something was written after the end"

    @invariant()
    def what_is_seen_is_there(self) -> None:
        for job in self.holder:
            refusal, view = _asked(self.store.get, job)
            if refusal is not None:
                assert self._gone(job), "a job was lost"
                assert refusal == ("not_found" if job in self.forgotten else "job_expired")
                continue
            assert not self._gone(job), "a job that is gone was shown"
            assert view.status is self.ended.get(job, view.status)
            assert view.status.final == (job in self.ended)
            assert all(self.storage.exists(place) for place in view.files.values())
            assert bool(view.files) == (view.status is JobStatus.SUCCEEDED)
            if job in self.parent and not view.status.final:
                assert self.storage.exists(f"{self.parent[job]}/stage1.npz"), "taken from a reader"

    def everything_comes_to_an_end(self) -> None:
        """However it was left: runners that work find every job and can finish it."""
        self.clock.now += 1000
        while (claim := self.claims.claim("last", LEASE)) is not None:
            self._succeed(claim)
        for job in self.holder:
            assert not self._known(job) or self.store.events(job, 0)[1]
        self.clock.now += KEEP + TOMBSTONE
        while self.sweeper.sweep():
            self.clock.now += TOMBSTONE
        assert not any(self.storage.list(job) for job in self.holder)
        assert not any(self._known(job) for job in self.holder)

    def _new(self, priority: int) -> str:
        self.clock.now += 1
        job = f"j{int(list(self.priority)[-1][1:]) + 1 if self.priority else 0}"
        self.holder[job], self.priority[job] = None, priority
        return job

    def _submit(self, request: JobRequest, priority: int) -> None:
        terms = JobTerms(priority=priority, keep_for=KEEP)
        self.store.submit(
            request.model_copy(update={"terms": terms}),
            max_attempts=3,
            max_queued=1000,
            max_queued_of_owner=1000,
        )

    def _succeed(self, claim: Claim) -> None:
        files = {"manifest.json": f"{claim.job}/{claim.fence}/manifest.json"}
        if self._may_write(claim) or claim.job not in self.holder:
            self.storage.write(files["manifest.json"], b"{}")
            self.storage.write(f"{claim.job}/stage1.npz", b"result")
        results = {"stage1_result": f"{claim.job}/stage1.npz", "files": files}
        event = ("result", {})
        self.claims.finish(claim.job, claim.fence, JobStatus.SUCCEEDED, event, **results)

    def _end(self, job: str, status: JobStatus, keep: float = KEEP) -> None:
        self.ended[job] = status
        self.expiry[job] = self.clock.now + keep
        self.holder[job] = None
        self.cancelling.discard(job)

    def _may_write(self, claim: Claim) -> bool:
        return self.holder[claim.job] == claim.fence

    def _free(self, job: str) -> bool:
        if job in self.ended:
            return False
        return self.holder[job] is None or self.lease_ends[job] < self.clock.now

    def _gone(self, job: str) -> bool:
        return job in self.expiry and self.expiry[job] <= self.clock.now

    def _known(self, job: str) -> bool:
        return _asked(self.store.events, job, 0)[0] is None

    def _forget_cancelled_of_the_dead(self) -> None:
        """A claim ends expired jobs whose cancellation was asked for on its way."""
        for job in list(self.cancelling):
            if self.store.get(job).status.final:
                assert self.lease_ends[job] < self.clock.now
                self._end(job, JobStatus.CANCELLED)


def _asked(call: Callable[..., Any], *args: Any) -> tuple[str | None, Any]:
    """The code of a refusal, or None and the answer."""
    try:
        return None, call(*args)
    except ServiceError as error:
        return error.code, None


JobMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestJobs = JobMachine.TestCase
