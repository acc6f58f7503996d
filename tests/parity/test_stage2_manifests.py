"""The Stage 2 networks have the official names, shapes and types at the official size."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from kit import manifest_file
from torch import nn

from deployments.checkpoints.checkpoint import open_checkpoint
from deployments.checkpoints.component import Component
from deployments.stage2.models.config import (
    GaussianDecoderConfig,
    LatentFlowConfig,
    MeshDecoderConfig,
)
from deployments.stage2.models.gaussian_decoder import GaussianDecoder
from deployments.stage2.models.latent_flow import LatentFlow
from deployments.stage2.models.mesh_decoder import MeshDecoder

BUILD: dict[Component, Callable[[dict[str, object]], nn.Module]] = {
    Component.LATENT_FLOW: lambda c: LatentFlow(LatentFlowConfig.from_dict(c), torch.float16),
    Component.GAUSSIAN_DECODER: lambda c: GaussianDecoder(
        GaussianDecoderConfig.from_dict(c), torch.float16
    ),
    Component.MESH_DECODER: lambda c: MeshDecoder(MeshDecoderConfig.from_dict(c), torch.float16),
}


@pytest.mark.parametrize("component", list(BUILD), ids=lambda component: component.name.lower())
def test_state_dict_is_the_official_one(component: Component, pytestconfig: pytest.Config) -> None:
    expected = json.loads(manifest_file(pytestconfig, component.value).read_text())
    with torch.device("meta"):
        network = BUILD[component](open_checkpoint("random:official").config(component))
    found = {
        name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for name, tensor in network.state_dict().items()
    }
    assert found == expected["tensors"]
    assert sum(p.numel() for p in network.parameters()) == expected["num_parameters"]
