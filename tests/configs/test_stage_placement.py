"""Every configuration says how each stage scales and where it may run, in words that Ray takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import DeploymentSchema, ServeDeploySchema

ROOT = Path(__file__).parents[2]
FILES = [
    ROOT / "serve_config.yaml",
    *sorted((ROOT / "configs").glob("*.yaml")),
    ROOT / "configs/kuberay/base/serve_config.yaml",
    ROOT / "configs/kuberay/laptop/rayservice.yaml",
]
STAGES = {"Stage1", "Stage2"}


def document(path: Path) -> Any:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found if "applications" in found else yaml.safe_load(found["spec"]["serveConfigV2"])


def deployments(path: Path) -> dict[str, DeploymentSchema]:
    schema = ServeDeploySchema.model_validate(document(path))
    return {one.name: one for app in schema.applications for one in app.deployments}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_stage_has_its_own_scaling_and_place(path: Path) -> None:
    stages = {name: one for name, one in deployments(path).items() if name in STAGES}
    assert stages
    for stage in stages.values():
        scaling = stage.autoscaling_config
        assert isinstance(scaling, dict)
        assert scaling["target_ongoing_requests"] == 1
        assert scaling["min_replicas"] <= scaling["max_replicas"]
        assert 0 < scaling["upscale_delay_s"] < scaling["downscale_delay_s"]
        assert stage.max_ongoing_requests == 1
        place = stage.ray_actor_options
        said = place.model_fields_set
        assert {"num_cpus", "num_gpus", "accelerator_type", "memory"} <= said
        assert place.memory >= 5e8


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_runners_keep_a_queue_before_stage1(path: Path) -> None:
    front = next(one for one in document(path)["applications"] if one["name"] == "front")
    most = deployments(path)["Stage1"].autoscaling_config["max_replicas"]
    assert front["args"].get("runner_concurrency", 2) > most


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if "laptop" not in path.parts],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_full_gateway_answers_503(path: Path) -> None:
    gateway = deployments(path)["Gateway"]
    assert gateway.max_queued_requests == 400
    answer = gateway.backpressure_config
    assert (answer.status_code, answer.retry_after_s) == (503, 10)


def test_the_code_alone_has_the_same_bound() -> None:
    from serve_app.ingress.deployment import Gateway

    config: Any = Gateway._deployment_config
    assert config.max_queued_requests == 400
    assert config.backpressure_config.status_code == 503
