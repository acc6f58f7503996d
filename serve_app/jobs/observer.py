"""What a run of a job tells metrics and traces. The runner calls it and knows no names of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from ray.serve import context

from deployments.errors import SyncHumanError
from serve_app.jobs.claims import Claim
from serve_app.jobs.stages import StageFailed, StageLost
from serve_app.metrics.catalogue import FALLBACKS, JOBS, QUEUE_WAIT, RETRIES, STAGE_SECONDS
from serve_app.metrics.recorder import NoRecorder, Recorder
from serve_app.tracing import NoTracer, Span, Tracer

OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "out of memory")


class JobObserver:
    """Watches one run from its claim to its end, which may come once only."""

    def __init__(
        self,
        claim: Claim,
        recorder: Recorder | None = None,
        tracer: Tracer | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._claim = claim
        self._recorder = recorder or NoRecorder()
        self._tracer = tracer or NoTracer()
        self._clock = clock
        self._span: Span | None = None

    @property
    def traceparent(self) -> str:
        """The context that the stages of this run belong to."""
        return self._claim.traceparent if self._span is None else self._span.traceparent

    def begin(self) -> None:
        """The run begins, in the task that calls this."""
        claim = self._claim
        carry_request_id(claim.request_id)
        if claim.attempt:
            self._recorder.record(RETRIES, cause="taken_over")
        elif claim.fence == 1:
            waited = max(0.0, self._clock() - claim.created_at)
            self._recorder.record(QUEUE_WAIT, waited)
        self._span = self._tracer.start(
            "job", claim.traceparent, job=claim.job, mode=claim.mode.value, fence=claim.fence
        )

    def waited(self, stage: str, seconds: float) -> None:
        """A replica has begun, so long after the job asked for one."""
        self._recorder.record(STAGE_SECONDS, seconds, stage=stage, phase="wait")

    def retried(self, stage: str, problem: Exception) -> None:
        self._recorder.record(RETRIES, cause=f"{stage}_{retry_cause(problem)}")

    def fell_back(self, error: SyncHumanError) -> None:
        self._recorder.record(FALLBACKS, reason=fallback_reason(error))

    def ended(self, outcome: str, code: str | None = None) -> None:
        """succeeded, fallback, failed, cancelled, or handed back as released or lost."""
        if outcome in ("succeeded", "fallback", "failed", "cancelled"):
            self._recorder.record(JOBS, outcome=outcome)
        if self._span is not None:
            self._span.end(code, outcome=outcome)
            self._span = None


def retry_cause(problem: Exception) -> str:
    """Why a stage is called again, as a word."""
    if isinstance(problem, StageLost):
        return "lost"
    text = problem.failure.message if isinstance(problem, StageFailed) else ""
    return "out_of_memory" if any(sign in text for sign in OUT_OF_MEMORY) else "failed"


def fallback_reason(error: SyncHumanError) -> str:
    """Why there is no Stage 2, as a word: its state, or the code of its failure."""
    if any(sign in error.message for sign in OUT_OF_MEMORY):
        return "out_of_memory"
    state = error.detail.get("state")
    if isinstance(state, str):
        return state
    return "lost" if error.code == "stage2_unavailable" else error.code


def carry_request_id(request_id: str) -> None:
    """Let this task's log lines, and those of the replicas that it calls, have a request's id.

    Serve does this by itself within a request. A job outlives its request, so its run has to say.
    """
    if request_id:
        context._set_request_context(request_id=request_id)
