"""serve_app/config_conflicts.py: what is right by itself and wrong together, with its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app import tracing
from serve_app.config_check import check_document

ROOT = Path(__file__).parents[2]


def document() -> Any:
    return yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))


def front(changed: Any) -> Any:
    return changed["applications"][0]["args"]


def deployment(changed: Any, name: str) -> Any:
    found = [one for app in changed["applications"] for one in app["deployments"]]
    return next(one for one in found if one["name"] == name)


def two_rooms(changed: Any) -> None:
    deployment(changed, "Jobs")["num_replicas"] = 2


def long_drain(changed: Any) -> None:
    front(changed)["drain_s"] = 700


def many_stages(changed: Any) -> None:
    deployment(changed, "Stage1")["autoscaling_config"]["max_replicas"] = 4


def no_stage1(changed: Any) -> None:
    front(changed)["stage1_app"] = "first"


@pytest.mark.parametrize(
    ("change", "place", "remedy"),
    [
        (two_rooms, "database_url", "PostgreSQL"),
        (long_drain, "drain_s", "smaller"),
        (many_stages, "runner_concurrency", "twice as many"),
        (no_stage1, "stage1_app", "every mode needs Stage 1"),
    ],
)
def test_values_that_contradict_each_other(
    change: Callable[[Any], None], place: str, remedy: str
) -> None:
    changed = document()
    change(changed)
    (problem,) = check_document(changed)
    assert problem.startswith(f"applications[0].args.{place}")
    assert remedy in problem


def test_wrong_lines_of_a_key_file_are_named_and_keys_are_not(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{'a' * 64} anna per_minute=1\nsecret-key\n{'b' * 64} per_minute=lots\n")
    changed = document()
    front(changed)["api_keys_file"] = str(path)
    problems = check_document(changed)
    assert [problem.partition(": ")[0] for problem in problems] == [
        "applications[0].args.api_keys_file"
    ] * 2
    assert "line 2" in problems[0]
    assert "line 3 has 'per_minute=lots'" in problems[1]
    assert "secret-key" not in "".join(problems)


def test_a_collector_needs_its_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = document()
    changed["applications"][2]["args"]["trace_endpoint"] = "http://collector:4318/v1/traces"
    monkeypatch.setattr(tracing, "EXPORTER", "no_such_package")
    (problem,) = check_document(changed)
    assert problem.startswith("applications[2].args.trace_endpoint")
    assert "synchuman-serve[tracing]" in problem
