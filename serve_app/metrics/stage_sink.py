"""What a stage's replica reports, as metrics and spans."""

from __future__ import annotations

from deployments.stage_report import RunEnd
from serve_app.metrics.catalogue import (
    COLD_START,
    MEMORY_TOTAL,
    MEMORY_USED,
    STAGE_RUNS,
    STAGE_SECONDS,
    STEP_SECONDS,
)
from serve_app.metrics.recorder import RayRecorder, Recorder
from serve_app.tracing import Tracer, open_tracer


def open_stage_sink(trace_endpoint: str | None, trace_ratio: float) -> ReplicaSink:
    """The sink of the replica in whose process this is called.

    :raises BackendError: ``tracing_unavailable``.
    """
    return ReplicaSink(RayRecorder(), open_tracer(trace_endpoint, trace_ratio))


class ReplicaSink:
    """A ``StageSink`` on a recorder and a tracer."""

    def __init__(self, recorder: Recorder, tracer: Tracer) -> None:
        self._recorder = recorder
        self._tracer = tracer

    def constructed(self, stage: str, seconds: float) -> None:
        self._recorder.record(COLD_START, seconds, stage=stage)

    def stepped(self, stage: str, seconds: float) -> None:
        self._recorder.record(STEP_SECONDS, seconds)

    def memory(self, stage: str, total: int, used: int) -> None:
        self._recorder.record(MEMORY_TOTAL, float(total), stage=stage)
        self._recorder.record(MEMORY_USED, float(used), stage=stage)

    def ended(self, run: RunEnd) -> None:
        self._recorder.record(STAGE_RUNS, stage=run.stage, outcome=run.outcome)
        if run.outcome == "completed":
            self._recorder.record(STAGE_SECONDS, run.seconds, stage=run.stage, phase="run")
        self._tracer.tell(
            run.stage,
            run.order.traceparent,
            run.began,
            run.seconds,
            run.code if run.outcome == "failed" else None,
            job=run.order.job,
            attempt=run.order.attempt,
            steps=run.steps,
            device=run.device,
            outcome=run.outcome,
        )
