"""Recording metrics: on Ray Serve, or nowhere."""

from __future__ import annotations

from typing import Any, Protocol

from serve_app.metrics.catalogue import Kind, Metric


class Recorder(Protocol):
    """Where figures go."""

    def record(self, metric: Metric, value: float = 1.0, /, **labels: str) -> None:
        """Add to a counter, set a gauge, or observe a value of a histogram."""


class NoRecorder:
    """Keeps nothing: for tests and tools without Ray."""

    def record(self, metric: Metric, value: float = 1.0, /, **labels: str) -> None: ...


class RayRecorder:
    """Ray Serve's own metrics, at ``/metrics`` of the node's agent.

    Must be made inside a replica, whose name the series carry.
    """

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def record(self, metric: Metric, value: float = 1.0, /, **labels: str) -> None:
        made = self._made.get(metric.name)
        if made is None:
            made = self._made[metric.name] = _make(metric)
        if metric.kind is Kind.COUNTER:
            made.inc(value, tags=labels)
        elif metric.kind is Kind.GAUGE:
            made.set(value, tags=labels)
        else:
            made.observe(value, tags=labels)


def _make(metric: Metric) -> Any:
    from ray.serve import metrics

    about = {"description": f"{metric.meaning} ({metric.unit})", "tag_keys": metric.labels}
    if metric.kind is Kind.COUNTER:
        return metrics.Counter(metric.name, **about)
    if metric.kind is Kind.GAUGE:
        return metrics.Gauge(metric.name, **about)
    return metrics.Histogram(metric.name, boundaries=list(metric.buckets), **about)
