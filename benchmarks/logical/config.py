"""Serve configs of the whole service with paced stages, as an operator would write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.logical.stages import Pace


@dataclass(frozen=True)
class StageSize:
    """One stage: how long it holds its slot, how many replicas there are, what one needs.

    ``options`` override deployment options, ``args`` the builder's.
    """

    seconds: float = 0.5
    replicas: int = 1
    gpus: float = 1
    autoscaling: dict[str, Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FrontSize:
    """The front: replicas of the Gateway and of Jobs, and overrides."""

    gateways: int = 1
    jobs: int = 1
    args: dict[str, Any] = field(default_factory=dict)
    jobs_options: dict[str, Any] = field(default_factory=dict)


def service_config(
    folder: Path,
    stage1: StageSize,
    stage2: StageSize | None,
    front: FrontSize | None = None,
    *,
    stages: str = "benchmarks.logical.stages",
) -> dict[str, Any]:
    """A config for ``serve deploy``. Without ``stage2`` that application is not in it.

    :param stages: the module with the builders ``stage1`` and ``stage2``.
    """
    front = front or FrontSize()
    applications = [_front(folder, front), _stage(folder, 1, stage1, stages)]
    if stage2 is not None:
        applications.append(_stage(folder, 2, stage2, stages))
    return {"applications": applications}


def _front(folder: Path, size: FrontSize) -> dict[str, Any]:
    place = {"label_selector": {"synchuman.io/front": "true"}}
    return {
        "name": "front",
        "route_prefix": "/",
        "import_path": "serve_app.app:front",
        "args": {
            "checkpoint": "random:small",  # read for the sizes of the pictures only
            "storage_url": str(folder / "jobs"),
            "database_url": f"sqlite:///{folder}/jobs.db",
            "matting": "none",
            "runner_concurrency": 16,
            **size.args,
        },
        "deployments": [
            {
                "name": "Gateway",
                "num_replicas": size.gateways,
                "ray_actor_options": {"num_cpus": 0.2, **place},
            },
            {
                "name": "Jobs",
                "num_replicas": size.jobs,
                "ray_actor_options": {"num_cpus": 0.2, **place},
                **size.jobs_options,
            },
            {"name": "Preprocess", "ray_actor_options": {"num_cpus": 0.2, **place}},
            {"name": "Preview", "ray_actor_options": {"num_cpus": 0.1, **place}},
        ],
    }


def _stage(folder: Path, number: int, size: StageSize, module: str) -> dict[str, Any]:
    name = f"stage{number}"
    replicas = (
        {"num_replicas": size.replicas}
        if size.autoscaling is None
        else {"autoscaling_config": {"target_ongoing_requests": 1, **size.autoscaling}}
    )
    return {
        "name": name,
        "route_prefix": None,
        "import_path": f"{module}:{name}",
        "args": {
            "checkpoint": str(Pace(size.seconds, folder)),
            **({"require_kaolin": False} if number == 2 else {}),
            **size.args,
        },
        "deployments": [
            {
                "name": f"Stage{number}",
                **replicas,
                "ray_actor_options": {
                    "num_cpus": 0.1,
                    "num_gpus": size.gpus,
                    "label_selector": {f"synchuman.io/{name}": "true"},
                },
                **size.options,
            }
        ],
    }
