"""serve_app/jobs/observer.py: what a run of a job counts, and under which few words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from ray.serve import context

from deployments.errors import GenerationError, StageUnavailable
from deployments.messages import Failed
from serve_app.jobs.observer import JobObserver, carry_request_id, fallback_reason, retry_cause
from serve_app.jobs.stages import StageFailed, StageLost
from serve_app.metrics.catalogue import Metric
from serve_app.tracing import OpenTelemetryTracer

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Recorded:
    """A recorder that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float, dict[str, str]]] = []

    def record(self, metric: Metric, value: float = 1.0, /, **labels: str) -> None:
        assert set(labels) == set(metric.labels)
        self.seen.append((metric.name.removeprefix("synchuman_"), value, labels))


@pytest.fixture
def observed(submit: Any, claims: Any) -> Callable[..., JobObserver]:
    """Makes an observer of a job that waited for 7.5 s."""
    submit("j", traceparent=PARENT)
    real = claims.claim("runner", 10)

    def observe(recorded: Recorded, tracer: Any = None, **values: Any) -> JobObserver:
        claim = dataclasses.replace(real, **values)
        return JobObserver(claim, recorded, tracer, clock=lambda: real.created_at + 7.5)

    return observe


def test_the_first_claim_ends_the_wait_in_the_queue(observed: Any) -> None:
    recorded = Recorded()
    observed(recorded).begin()
    assert recorded.seen == [("queue_wait_seconds", 7.5, {})]


def test_a_job_that_was_given_back_unbegun_is_no_retry(observed: Any) -> None:
    recorded = Recorded()
    observed(recorded, fence=2).begin()
    assert recorded.seen == []


def test_a_job_whose_runner_died_is_one(observed: Any) -> None:
    recorded = Recorded()
    observed(recorded, fence=2, attempt=1).begin()
    assert recorded.seen == [("retries_total", 1.0, {"cause": "taken_over"})]


def test_an_end_counts_unless_another_goes_on(observed: Any) -> None:
    recorded = Recorded()
    for outcome in ("succeeded", "fallback", "failed", "cancelled", "released", "lost"):
        observed(recorded).ended(outcome)
    assert [labels["outcome"] for _, _, labels in recorded.seen] == [
        "succeeded",
        "fallback",
        "failed",
        "cancelled",
    ]


def test_waits_and_retries_name_their_stage(observed: Any) -> None:
    recorded = Recorded()
    observer = observed(recorded)
    observer.waited("stage2", 3.0)
    observer.retried("stage2", StageLost("a replica died"))
    assert recorded.seen == [
        ("stage_seconds", 3.0, {"stage": "stage2", "phase": "wait"}),
        ("retries_total", 1.0, {"cause": "stage2_lost"}),
    ]


@pytest.mark.parametrize(
    ("problem", "cause"),
    [
        (StageLost("gone"), "lost"),
        (StageFailed(Failed("stage2_failed", "stage2 failed with ValueError: x", True)), "failed"),
        (
            StageFailed(Failed("stage2_failed", "stage2 failed with OutOfMemoryError", True)),
            "out_of_memory",
        ),
    ],
)
def test_causes_are_few(problem: Exception, cause: str) -> None:
    assert retry_cause(problem) == cause


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StageUnavailable("x", code="stage2_unavailable", state="absent"), "absent"),
        (StageUnavailable("a replica died", code="stage2_unavailable"), "lost"),
        (GenerationError("the mesh is empty", code="empty_mesh"), "empty_mesh"),
        (GenerationError("stage2 failed with OutOfMemoryError: 12 GB"), "out_of_memory"),
    ],
)
def test_reasons_are_few(error: Any, reason: str) -> None:
    assert fallback_reason(error) == reason


def test_without_a_tracer_the_context_is_handed_on(observed: Any) -> None:
    observer = observed(Recorded())
    assert observer.traceparent == PARENT
    observer.begin()
    assert observer.traceparent == PARENT


def test_a_run_is_a_span_between_the_request_and_the_stages(observed: Any) -> None:
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    observer = observed(Recorded(), OpenTelemetryTracer(provider))
    observer.begin()
    handed_on = observer.traceparent
    observer.ended("failed", "empty_mesh")
    (span,) = spans.get_finished_spans()
    assert handed_on == f"{PARENT[:36]}{span.context.span_id:016x}-01"
    assert f"{span.parent.span_id:016x}" == PARENT[36:52]
    assert span.attributes["synchuman.outcome"] == "failed"
    assert span.status.description == "empty_mesh"


async def test_calls_and_log_lines_of_a_run_carry_its_request() -> None:
    carry_request_id("mine-1")
    assert context._get_serve_request_context().request_id == "mine-1"
    carry_request_id("")
    assert context._get_serve_request_context().request_id == "mine-1"
