from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.config_check import check_document, check_file

ROOT = Path(__file__).parents[2]
SHIPPED = [ROOT / "serve_config.yaml", *sorted((ROOT / "configs").glob("*.yaml"))]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_configuration_is_clean(path: Path):
    assert check_file(path) == []


def test_all_shipped_configurations_were_found():
    names = {path.name for path in SHIPPED}
    assert names >= {
        "serve_config.yaml",
        "official.yaml",
        "stage1_only.yaml",
        "graceful_fallback.yaml",
    }


def document() -> Any:
    return yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))


def test_keys_that_serve_would_drop_are_named_with_their_place():
    changed = document()
    changed["http_option"] = {}
    changed["http_options"]["prot"] = 8000
    deployment = changed["applications"][1]["deployments"][0]
    deployment["max_ongoing_request"] = 1
    deployment["ray_actor_options"]["num_gpu"] = 1
    deployment["autoscaling_config"]["max_replica"] = 2
    problems = check_document(changed)
    place = "applications[1].deployments[0]"
    assert sorted(problem.partition(":")[0] for problem in problems) == [
        f"{place}.autoscaling_config.max_replica",
        f"{place}.max_ongoing_request",
        f"{place}.ray_actor_options.num_gpu",
        "http_option",
        "http_options.prot",
    ]
    assert "did you mean 'num_gpus'?" in "\n".join(problems)


@pytest.mark.parametrize(
    ("application", "name", "value", "message"),
    [
        (0, "stage1_step", 50, "applications[0].args.stage1_step: Extra inputs"),
        (0, "stage1_steps", 500, "applications[0].args.stage1_steps: Input should be less than"),
        (2, "on_missing", "ignore", "applications[2].args.on_missing: Input should be 'raise'"),
    ],
)
def test_arguments_are_checked_by_their_builder(application, name, value, message):
    changed = document()
    changed["applications"][application]["args"][name] = value
    (problem,) = check_document(changed)
    assert problem.startswith(message)


def test_live_settings_are_checked():
    changed = document()
    changed["applications"][0]["deployments"][1]["user_config"] = {"queue_wait": 1}
    (problem,) = check_document(changed)
    assert problem.startswith("applications[0].deployments[1].user_config.queue_wait: Extra")


def test_a_builder_that_does_not_exist_is_named():
    changed = document()
    changed["applications"][1]["import_path"] = "serve_app.app:stage7"
    (problem,) = check_document(changed)
    assert "applications[1].import_path" in problem
    assert "stage7" in problem


def test_what_serve_itself_refuses_is_told():
    changed = document()
    changed["applications"][0]["deployments"][0]["num_replicas"] = -1
    assert any("num_replicas" in problem for problem in check_document(changed))


@pytest.mark.parametrize("text", ["applications: [", "just text", "a: 1"])
def test_files_that_are_no_configuration(tmp_path: Path, text: str):
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    assert len(check_file(path)) == 1


def test_a_missing_file(tmp_path: Path):
    assert "can not be read" in check_file(tmp_path / "none.yaml")[0]
