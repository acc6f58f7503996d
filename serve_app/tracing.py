"""W3C trace context, and spans where somebody collects them.

    ingress            one submission (Gateway)
      job              from its claim to its end (Jobs)
        preprocess, stage1, stage2, preview       runs, told by the stages' replicas

A request's ``traceparent`` travels with its job: through the job's row, the order of every stage
and their log lines. Without the extra ``tracing``, or without ``trace_endpoint``, it is handed on
as it came; with them each part begins a span of its own and hands that on.
"""

from __future__ import annotations

import importlib.util
import re
import time
from typing import TYPE_CHECKING, Any, Protocol

from deployments.errors import BackendError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
EXPORT_EVERY_MS = 2000
EXPORTER = "opentelemetry.exporter.otlp.proto.http"
INSTALL = "Install the extra: pip install 'synchuman-serve[tracing]'"


def has_exporter() -> bool:
    """Whether the extra is installed."""
    try:
        return importlib.util.find_spec(EXPORTER) is not None
    except ModuleNotFoundError:
        return False


def checked_traceparent(header: str | None) -> str:
    """A ``traceparent`` header that can be handed on; empty for none, or one that is malformed."""
    return header if header and TRACEPARENT.fullmatch(header) else ""


class Span(Protocol):
    """Something that goes on. ``traceparent`` makes others its children."""

    @property
    def traceparent(self) -> str: ...

    def end(self, failed: str | None = None, **attributes: str | int | float) -> None:
        """It is over; ``failed`` says why it did not go well."""


class Tracer(Protocol):
    """Who collects spans."""

    def start(self, name: str, parent: str, **attributes: str | int | float) -> Span: ...

    def tell(
        self,
        name: str,
        parent: str,
        began: float,
        seconds: float,
        failed: str | None = None,
        **attributes: str | int | float,
    ) -> None:
        """A span that is over; ``began`` in seconds since the epoch."""


class PassedOn:
    """No span: children belong to whoever came before."""

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def end(self, failed: str | None = None, **attributes: str | int | float) -> None: ...


class NoTracer:
    """Collects nothing and hands contexts on."""

    def start(self, name: str, parent: str, **attributes: str | int | float) -> PassedOn:
        return PassedOn(parent)

    def tell(
        self,
        name: str,
        parent: str,
        began: float,
        seconds: float,
        failed: str | None = None,
        **attributes: str | int | float,
    ) -> None: ...


class OpenTelemetryTracer:
    """Spans of an OpenTelemetry provider, our own and not the process's global one, which Ray may
    have set for itself."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("synchuman")

    def start(self, name: str, parent: str, **attributes: str | int | float) -> OpenTelemetrySpan:
        return self._begin(name, parent, time.time(), attributes)

    def tell(
        self,
        name: str,
        parent: str,
        began: float,
        seconds: float,
        failed: str | None = None,
        **attributes: str | int | float,
    ) -> None:
        self._begin(name, parent, began, attributes).end_at(began + seconds, failed)

    def _begin(
        self, name: str, parent: str, began: float, attributes: dict[str, str | int | float]
    ) -> OpenTelemetrySpan:
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract({"traceparent": parent}, Context())
        span = self._tracer.start_span(name, context, start_time=_nanoseconds(began))
        span.set_attributes({f"synchuman.{key}": value for key, value in attributes.items()})
        return OpenTelemetrySpan(span)


class OpenTelemetrySpan:
    """A span of OpenTelemetry."""

    def __init__(self, span: Any) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def end(self, failed: str | None = None, **attributes: str | int | float) -> None:
        self.end_at(time.time(), failed, **attributes)

    def end_at(
        self, when: float, failed: str | None = None, **attributes: str | int | float
    ) -> None:
        """End at a moment in seconds since the epoch."""
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attributes({f"synchuman.{key}": value for key, value in attributes.items()})
        if failed is not None:
            self._span.set_status(Status(StatusCode.ERROR, failed))
        self._span.end(_nanoseconds(when))


def open_tracer(endpoint: str | None, ratio: float = 1.0) -> Tracer:
    """A tracer that sends spans to an OTLP/HTTP collector; without one, one that sends nothing.

    :param ratio: share of the traces begun here that are kept. A caller's decision stays.
    :raises BackendError: ``tracing_unavailable`` when the extra is not installed.
    """
    if endpoint is None:
        return NoTracer()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ImportError as error:
        raise BackendError(
            f"trace_endpoint is {endpoint!r}, and spans need OpenTelemetry, which is missing "
            f"({error.name}). {INSTALL}, or leave trace_endpoint out",
            code="tracing_unavailable",
        ) from error
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(ratio)),
        resource=Resource.create({"service.name": "synchuman"}),
    )
    exporter = OTLPSpanExporter(endpoint=endpoint)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=EXPORT_EVERY_MS))
    return OpenTelemetryTracer(provider)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
