"""serve_app/tracing.py with OpenTelemetry's own exporter in memory: one trace from the request to
every stage."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from deployments.errors import BackendError
from deployments.messages import WorkOrder
from deployments.stage_report import RunEnd
from serve_app.metrics.recorder import NoRecorder
from serve_app.metrics.stage_sink import ReplicaSink
from serve_app.tracing import NoTracer, OpenTelemetryTracer, checked_traceparent, open_tracer

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(spans: InMemorySpanExporter) -> Iterator[OpenTelemetryTracer]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    yield OpenTelemetryTracer(provider)
    provider.shutdown()


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        (PARENT, PARENT),
        (None, ""),
        ("", ""),
        ("00-0-0-01", ""),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (PARENT.upper(), ""),
        (f"{PARENT}\n", ""),
    ],
)
def test_only_a_proper_context_is_handed_on(header: str | None, kept: str) -> None:
    assert checked_traceparent(header) == kept


def test_without_a_collector_contexts_pass_unchanged() -> None:
    tracer = open_tracer(None)
    assert isinstance(tracer, NoTracer)
    span = tracer.start("job", PARENT, job="j")
    assert span.traceparent == PARENT
    span.end(outcome="succeeded")


def test_a_collector_without_the_extra_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(BackendError, match=r"pip install 'synchuman-serve\[tracing\]'") as error:
        open_tracer("http://collector:4318/v1/traces")
    assert error.value.code == "tracing_unavailable"


def test_spans_nest_from_the_request_to_the_stages(
    tracer: OpenTelemetryTracer, spans: InMemorySpanExporter
) -> None:
    ingress = tracer.start("ingress", PARENT, request_id="r")
    job = tracer.start("job", ingress.traceparent, job="j", fence=1)
    sink = ReplicaSink(NoRecorder(), tracer)
    order = WorkOrder("j", 1, traceparent=job.traceparent)
    done = RunEnd(order, "stage1", "cpu", "completed", 1000.0, 2.5, 50)
    sink.ended(done)
    sink.ended(dataclasses.replace(done, stage="stage2", outcome="failed", code="empty_mesh"))
    job.end("empty_mesh", outcome="failed")
    ingress.end(status=500)

    named = {span.name: span for span in spans.get_finished_spans()}
    assert {f"{span.context.trace_id:032x}" for span in named.values()} == {TRACE}
    parents = {name: span.parent.span_id for name, span in named.items()}
    assert parents == {
        "ingress": int("b7ad6b7169203331", 16),
        "job": named["ingress"].context.span_id,
        "stage1": named["job"].context.span_id,
        "stage2": named["job"].context.span_id,
    }
    stage1 = named["stage1"]
    assert (stage1.start_time, stage1.end_time) == (1_000_000_000_000, 1_002_500_000_000)
    assert stage1.attributes["synchuman.steps"] == 50
    assert not stage1.status.description
    assert named["stage2"].status.description == named["job"].status.description == "empty_mesh"


def test_a_request_without_a_context_begins_a_trace(
    tracer: OpenTelemetryTracer, spans: InMemorySpanExporter
) -> None:
    first, second = tracer.start("ingress", ""), tracer.start("ingress", "")
    assert checked_traceparent(first.traceparent) == first.traceparent
    assert first.traceparent.split("-")[1] != second.traceparent.split("-")[1]
    first.end()
    assert spans.get_finished_spans()[0].parent is None


def test_a_caller_who_does_not_sample_is_obeyed(
    tracer: OpenTelemetryTracer, spans: InMemorySpanExporter
) -> None:
    span = tracer.start("ingress", f"00-{TRACE}-b7ad6b7169203331-00")
    span.end()
    assert span.traceparent.endswith("-00")
    assert span.traceparent.split("-")[1] == TRACE
    assert not spans.get_finished_spans()
