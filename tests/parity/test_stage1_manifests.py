"""The Stage 1 networks have the official names and shapes at the official size."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from kit import manifest_file
from torch import nn

from deployments.checkpoints.checkpoint import open_checkpoint
from deployments.checkpoints.component import Component
from deployments.stage1.models.config import JointModelConfig
from deployments.stage1.models.joint_model import JointModel
from deployments.stage1.models.structure_decoder import StructureDecoder, StructureDecoderConfig

BUILD: dict[Component, Callable[[dict[str, object]], nn.Module]] = {
    Component.JOINT_MODEL: lambda c: JointModel(JointModelConfig.from_dict(c)),
    Component.STRUCTURE_DECODER: lambda c: StructureDecoder(StructureDecoderConfig.from_dict(c)),
}


@pytest.mark.parametrize("component", list(BUILD), ids=lambda component: component.name.lower())
def test_state_dict_is_the_official_one(component: Component, pytestconfig: pytest.Config) -> None:
    expected = json.loads(manifest_file(pytestconfig, component.value).read_text())
    with torch.device("meta"):
        network = BUILD[component](open_checkpoint("random:official").config(component))
    found = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert found == {name: shape for name, (shape, _) in expected["tensors"].items()}
    assert sum(p.numel() for p in network.parameters()) == expected["num_parameters"]
