"""configs/grafana and configs/prometheus ask for metrics and labels that the service has.

The catalogue is the list between the two sides: here every query is compared with it, and
tests/service/test_metrics.py compares it with what a real run exposes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.metrics.catalogue import CATALOGUE, Kind, Metric

CONFIGS = Path(__file__).parents[2] / "configs"
DASHBOARD = json.loads((CONFIGS / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((CONFIGS / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]

QUERIES: dict[str, str] = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in PANELS
    for target in panel["targets"]
} | {rule["alert"]: rule["expr"] for rule in RULES}
BY_SERIES: dict[str, Metric] = {name: metric for metric in CATALOGUE for name in metric.exposed}
RAYS_LABELS = {"application", "deployment", "replica"}


def series(query: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", query))


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_a_query_asks_for_what_is_exposed(query: str) -> None:
    assert series(query)
    assert series(query) <= set(BY_SERIES)


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_a_query_uses_labels_that_are_there(query: str) -> None:
    there = set(RAYS_LABELS)
    for name in series(query):
        there |= set(BY_SERIES[name].labels) | ({"le"} if name.endswith("_bucket") else set())
    groups = re.findall(r"\bby \(([^)]*)\)", query)
    used = {label.strip() for group in groups for label in group.split(",")}
    used |= set(re.findall(r"(\w+)=~?\"", query))
    assert used <= there


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_a_query_reads_each_kind_as_it_must(query: str) -> None:
    for opening, closing in ("()", "[]", "{}"):
        assert query.count(opening) == query.count(closing)
    for name in series(query):
        kind = BY_SERIES[name].kind
        over_time = re.search(rf"(?:rate|increase)\({name}(?:{{[^}}]*}})?\[", query)
        assert bool(over_time) == (kind is not Kind.GAUGE), f"{name} is a {kind.value}"
        if name.endswith("_bucket"):
            assert "histogram_quantile(" in query
            assert re.search(r"by \(le\b", query)


def test_every_metric_has_a_panel() -> None:
    shown = {BY_SERIES[name].name for query in QUERIES.values() for name in series(query)}
    assert shown == {metric.name for metric in CATALOGUE}


def test_words_in_queries_are_words_of_the_service() -> None:
    """A value that no label ever has would make a panel that is always empty."""
    meanings = {metric.name: metric.meaning for metric in CATALOGUE}
    for query in QUERIES.values():
        for name, _, values in re.findall(r"(ray_\w+)\{(\w+)=~?\"([^\"]*)\"\}", query):
            for value in values.split("|"):
                assert re.search(rf"\b{value}\b", meanings[BY_SERIES[name].name]), (name, value)


def test_legends_are_grouped_for() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            grouped: Any = re.search(r"by \(([^)]*)\)", target["expr"])
            known = {label.strip() for label in grouped[1].split(",")} if grouped else set()
            assert wanted == known - {"le"}, panel["title"]


def test_the_dashboard_is_one_that_grafana_can_lay_out() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, f"{panel['title']} lies on another"
        taken |= cells
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in PANELS)
    assert DASHBOARD["templating"]["list"][0]["name"] == "datasource"


def test_alerts_say_what_they_mean() -> None:
    for rule in RULES:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]


def test_the_scrape_configuration_loads_the_alerts() -> None:
    scrape = yaml.safe_load((CONFIGS / "prometheus" / "prometheus.yaml").read_text())
    for name in scrape["rule_files"]:
        assert (CONFIGS / "prometheus" / name).exists()
