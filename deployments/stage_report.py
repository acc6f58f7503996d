"""What a stage replica reports beside its result: figures for metrics, ends of runs for logs and
traces.

Stages know neither Prometheus nor a tracer. They tell a :class:`StageSink`, which the service hands
to their constructors; without one nothing is told. A sink is called on the replica's event loop and
must neither block nor raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from deployments.messages import WorkOrder


@dataclass(frozen=True)
class RunEnd:
    """One run of a stage that has ended, however it did.

    ``outcome`` is completed, cancelled or failed; ``code`` is that of the failure. ``began`` is in
    seconds since the epoch, ``steps`` are those of the sampling.
    """

    order: WorkOrder
    stage: str
    device: str
    outcome: str
    began: float
    seconds: float
    steps: int
    code: str | None = None


class StageSink(Protocol):
    """Who wants to know what a replica does."""

    def constructed(self, stage: str, seconds: float) -> None:
        """The replica's weights are in place; it can take work from now on."""

    def stepped(self, stage: str, seconds: float) -> None:
        """One sampling step is done."""

    def memory(self, stage: str, total: int, used: int) -> None:
        """Bytes of the device that the replica computes on."""

    def ended(self, run: RunEnd) -> None:
        """A run has ended."""


OpenSink = Callable[[], StageSink]  # called inside the replica's process


class NoSink:
    """Tells nobody."""

    def constructed(self, stage: str, seconds: float) -> None: ...

    def stepped(self, stage: str, seconds: float) -> None: ...

    def memory(self, stage: str, total: int, used: int) -> None: ...

    def ended(self, run: RunEnd) -> None: ...


def log_fields(**fields: Any) -> Mapping[str, Any]:
    """The ``extra=`` of a log call whose fields must be found in JSON logs.

    Ray Serve writes fields below this one name as members of the line. A plain ``job_id`` would be
    lost: Ray has a field of that name, which it overwrites and removes.
    """
    return {"ray_serve_extra_fields": fields}


def log_run_end(run: RunEnd) -> Mapping[str, Any]:
    """The fields of the one line that every run of a stage leaves."""
    fields = {
        "event": "stage_end",
        "job_id": run.order.job,
        "stage": run.stage,
        "outcome": run.outcome,
        "code": run.code,
        "seconds": round(run.seconds, 3),
        "steps": run.steps,
        "device": run.device,
        "attempt": run.order.attempt,
        "fence": run.order.fence,
        "request_id": run.order.request_id,
        "traceparent": run.order.traceparent,
    }
    return log_fields(**{name: value for name, value in fields.items() if value not in (None, "")})
