"""serve_app/metrics: names that Prometheus takes, described once, and recorded as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import serve_app
from deployments.messages import WorkOrder
from deployments.stage_report import RunEnd
from serve_app.metrics import catalogue
from serve_app.metrics.catalogue import CATALOGUE, Kind, Metric
from serve_app.metrics.recorder import RayRecorder
from serve_app.metrics.stage_sink import ReplicaSink
from serve_app.tracing import NoTracer

PACKAGE = Path(serve_app.__file__).parent
PAGE = (PACKAGE / "OPERATIONS.md").read_text(encoding="utf-8")
NAMES = {metric.name for metric in CATALOGUE}
RAYS_OWN = {"application", "deployment", "replica", "route"}
TELLING_TOO_MUCH = {"job", "job_id", "request_id", "owner", "key", "file", "path", "url", "message"}


def test_the_catalogue_has_every_metric_once() -> None:
    defined = {value.name for value in vars(catalogue).values() if isinstance(value, Metric)}
    assert defined == NAMES
    assert len(CATALOGUE) == len(NAMES)


def test_no_other_module_names_a_metric() -> None:
    elsewhere = {
        path.name
        for path in PACKAGE.rglob("*.py")
        if path.name != "catalogue.py" and re.search(r'"synchuman_[a-z]', path.read_text())
    }
    assert not elsewhere


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_a_metric_is_named_as_prometheus_has_it(metric: Metric) -> None:
    assert re.fullmatch(r"synchuman_[a-z0-9_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    if metric.unit in ("seconds", "bytes"):
        assert metric.name.endswith(f"_{metric.unit}")
    assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert not set(metric.labels) & (RAYS_OWN | TELLING_TOO_MUCH)
    assert metric.meaning


def test_the_page_has_the_same_table() -> None:
    row = r"^\| `(synchuman_\w+)` \| (\w+) \| ([\w ]+) \| (.*?) \|"
    table = [
        (name, kind, unit, tuple(re.findall(r"`(\w+)`", labels)))
        for name, kind, unit, labels in re.findall(row, PAGE, re.MULTILINE)
    ]
    assert table == [
        (metric.name, metric.kind.value, metric.unit, metric.labels) for metric in CATALOGUE
    ]


class Recorded:
    """A recorder that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float, dict[str, str]]] = []

    def record(self, metric: Metric, value: float = 1.0, /, **labels: str) -> None:
        assert set(labels) == set(metric.labels)
        self.seen.append((metric.name.removeprefix("synchuman_"), value, labels))


def run_end(outcome: str, code: str | None = None) -> RunEnd:
    return RunEnd(WorkOrder("j", 1), "stage1", "cpu", outcome, 1000.0, 2.5, 50, code)


def test_a_replica_tells_what_it_does() -> None:
    recorded = Recorded()
    sink = ReplicaSink(recorded, NoTracer())
    sink.constructed("stage1", 12.0)
    sink.memory("stage1", 80, 20)
    sink.stepped("stage1", 0.1)
    sink.ended(run_end("completed"))
    sink.ended(run_end("failed", "empty_mesh"))
    assert recorded.seen == [
        ("cold_start_seconds", 12.0, {"stage": "stage1"}),
        ("device_memory_total_bytes", 80.0, {"stage": "stage1"}),
        ("device_memory_used_bytes", 20.0, {"stage": "stage1"}),
        ("step_seconds", 0.1, {}),
        ("stage_runs_total", 1.0, {"stage": "stage1", "outcome": "completed"}),
        ("stage_seconds", 2.5, {"stage": "stage1", "phase": "run"}),
        ("stage_runs_total", 1.0, {"stage": "stage1", "outcome": "failed"}),
    ]


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_ray_takes_every_metric_with_its_labels(metric: Metric) -> None:
    recorder: Any = RayRecorder()
    recorder.record(metric, 2.0, **dict.fromkeys(metric.labels, "x"))
    made = recorder._made[metric.name]
    assert (type(made).__name__.lower(), made._name) == (metric.kind.value, metric.name)
    if metric.labels:
        with pytest.raises(ValueError, match="Missing"):
            recorder.record(metric, 2.0)
