"""configs/kuberay against the operator's own schema; rayservice_schema.py knows only our half."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from crd import complaints
from test_kuberay import manifest


@pytest.mark.parametrize("name", ["base", "laptop"])
def test_the_api_server_would_take_every_field(name: str) -> None:
    assert complaints(manifest(name)) == []


def _misspell(spec: Any) -> None:
    group = spec["rayClusterConfig"]["workerGroupSpecs"][0]
    group["minReplica"] = group.pop("minReplicas")


def _misplace(spec: Any) -> None:
    container = spec["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["terminationGracePeriodSeconds"] = 60


def _quote(spec: Any) -> None:
    spec["rayClusterDeletionDelaySeconds"] = "1200"


def _leave_out(spec: Any) -> None:
    del spec["rayClusterConfig"]["headGroupSpec"]["template"]


@pytest.mark.parametrize(
    ("mistake", "found"),
    [
        (_misspell, "minReplica"),
        (_misplace, "terminationGracePeriodSeconds"),
        (_quote, "'1200' is not of type 'integer'"),
        (_leave_out, "'template' is a required property"),
    ],
)
def test_mistakes_are_found(mistake: Callable[[Any], None], found: str) -> None:
    wrong = copy.deepcopy(manifest("base"))
    mistake(wrong["spec"])
    assert found in "\n".join(complaints(wrong))
