"""The networks that are trained: the deployment's own classes with starting values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deployments.checkpoints.component import Component
from deployments.checkpoints.method import MethodConfig, read_json
from deployments.checkpoints.networks import build_network
from deployments.checkpoints.random import PRESETS_DIRECTORY
from deployments.layers.dinov2_network import Dinov2Embeddings
from deployments.layers.sparse.convolution import PointwiseConv3d, SubmanifoldConv3d
from deployments.stage1.models.clip_vision import ClipEmbeddings, ClipPositions

TOKENS = 0.02  # deviation of the tokens and positions that a vision transformer starts with

# Layers that start at zero, so that every residual branch and both heads begin as "no change".
ZERO_ENDS = (
    "adaLN_modulation.1",
    "output_layer_stucture",
    "output_layer_no",
    "output_layer_clr",
    "conv_out",
    "attn1.to_out.0",
    "attn_mv.to_out.0",
    "attn2.to_out.0",
    "cross_attn.to_out",
    "mv_condition.2",
    "upsample.0.out_layers.3.conv",
    "upsample.1.out_layers.3.conv",
)


class NetworkConfigs:
    """Configuration files of a preset, with changes of the recipe on top."""

    def __init__(self, preset: str, overrides: Mapping[str, Mapping[str, Any]]) -> None:
        self.root: Path = PRESETS_DIRECTORY / preset
        self._files = {
            component: _merged(read_json(path), overrides.get(component.name.lower(), {}))
            for component in Component
            if (path := self.root / component.value / "config.json").is_file()
        }
        method = MethodConfig.from_tree(self.root)
        self.method = replace(method, **_frozen(overrides.get("method", {})))

    def file(self, component: Component) -> dict[str, Any]:
        """The whole config.json of a component."""
        return self._files[component]

    def arguments(self, component: Component) -> dict[str, Any]:
        """What its network is built from."""
        values = self._files[component]
        inner = values.get("args")
        return inner if isinstance(inner, dict) else values

    def build(self, component: Component, device: torch.device) -> nn.Module:
        """A network in float32 with starting values, in training mode."""
        return start(build_network(component, self.arguments(component))).to(device).train()


def start(module: nn.Module) -> nn.Module:
    """Give values to what the inference classes leave empty, and zeros to the ends of branches."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, (SubmanifoldConv3d, PointwiseConv3d)):
                weight = part.conv["weight"]
                nn.init.normal_(weight, std=1 / math.sqrt(weight[0].numel()))
                nn.init.zeros_(part.conv["bias"])
            elif isinstance(part, (Dinov2Embeddings, ClipEmbeddings, ClipPositions)):
                for parameter in part.parameters(recurse=False):
                    nn.init.trunc_normal_(parameter, std=TOKENS)
        for name, parameter in module.named_parameters():
            owner = name.rpartition(".")[0]
            if owner.endswith(ZERO_ENDS):
                parameter.zero_()
            elif owner == "out_layer" and parameter.ndim == 2:
                parameter.mul_(0.1)
    return module


def count_millions(*modules: nn.Module) -> float:
    """Parameters in millions."""
    return sum(p.numel() for module in modules for p in module.parameters()) / 1e6


def _merged(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, change in changes.items():
        old = merged.get(name)
        merged[name] = _merged(old, change) if isinstance(old, dict) else change
    return merged


def _frozen(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
