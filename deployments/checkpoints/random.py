"""A checkpoint without files: right shapes, seeded values, created on the device in moments.

For benchmarks at the official size and for tests at the small one. Values are drawn so that signals
keep their size through the networks, in half precision too: matrices and kernels 1/sqrt(fan in),
gains one, biases zero, the last layer of each residual branch damped. The read-outs are shaped so
that a run ends with a body-like amount of geometry instead of none or a full cube (``_READ_OUTS``,
``_set_occupancy``): once at loading, nothing is adapted to a request.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deployments.checkpoints.checkpoint import Checkpoint
from deployments.checkpoints.component import Component
from deployments.checkpoints.loading import (
    ModuleT,
    build_without_memory,
    fill_module,
    target_dtype,
)
from deployments.checkpoints.method import MethodConfig, read_json
from deployments.errors import CheckpointError

PRESETS_DIRECTORY = Path(__file__).parent / "presets"
_SEED = 20_251
_RESIDUAL_GAIN = 0.3
_RESIDUAL_ENDS = (
    "to_out.weight",
    "to_out.0.weight",
    "mlp.2.weight",
    "mlp.mlp.2.weight",
    "mv_condition.2.weight",
    "net.2.weight",
    "conv2.weight",
    "conv2.conv.weight",
    "proj_out.weight",
    "o_proj.weight",
    "out_proj.weight",
    "fc2.weight",
    "output.dense.weight",
)

# Velocities near zero leave latents close to the noise they start from, whose statistics the
# structure decoder's threshold is set for.
_VELOCITY_GAIN = 0.1
# Share of voxels that a Gaussian latent occupies; the shell of a body fills 1.3 % of a 64 grid.
_OCCUPANCY = 0.015
_OCCUPANCY_LATENT = 8  # latent cells a side of the volume that the threshold is measured on


class RandomCheckpoint(Checkpoint):
    """Seeded values for the configurations of a preset, ``official`` or ``small``."""

    def __init__(self, preset: str, *, seed: int = _SEED) -> None:
        self.root = PRESETS_DIRECTORY / preset
        if not self.root.is_dir():
            presets = sorted(path.name for path in PRESETS_DIRECTORY.iterdir() if path.is_dir())
            raise CheckpointError(
                f"there is no random preset '{preset}'; there are {', '.join(presets)}",
                code="checkpoint_unknown",
                checkpoint=f"random:{preset}",
            )
        self.name = f"random:{preset}"
        self.method = MethodConfig.from_tree(self.root)
        self._seed = seed

    def config(self, component: Component) -> dict[str, Any]:
        values = read_json(self.root / component.value / "config.json")
        arguments = values.get("args")
        return arguments if isinstance(arguments, dict) else values

    def load(
        self,
        component: Component,
        build: Callable[[], ModuleT],
        *,
        device: torch.device | str,
        dtype: torch.dtype | None = None,
    ) -> ModuleT:
        device = torch.device(device)
        module = build_without_memory(build)
        generator = torch.Generator(device)
        computed = {name for name, _ in module.named_buffers()}
        state = {}
        for name, tensor in module.state_dict().items():
            if name in computed:
                # Position tables and the like: as the module computed them.
                state[name] = tensor.to(device, target_dtype(tensor, dtype))
                continue
            generator.manual_seed(zlib.crc32(f"{self._seed}:{component.value}:{name}".encode()))
            value = _draw(name, tuple(tensor.shape), generator, device)
            state[name] = (
                _shape_read_out(component, name, value).contiguous().to(target_dtype(tensor, dtype))
            )
        module = fill_module(module, state, device=device)
        if component is Component.STRUCTURE_DECODER:
            _set_occupancy(module, self.config(component)["latent_channels"], device)
        return module

    def prompt_embeddings(self) -> torch.Tensor:
        width = self.config(Component.JOINT_MODEL)["cross_attention_dim"]
        generator = torch.Generator().manual_seed(self._seed)
        return torch.randn(10, 77, width, generator=generator)


def _draw(
    name: str, shape: tuple[int, ...], generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    """One parameter in float32, by the kind that its name and shape tell."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf in ("gamma", "lambda1") or (len(shape) == 1 and leaf == "weight"):
        return torch.ones(shape, device=device)
    if leaf == "bias":
        return torch.zeros(shape, device=device)
    value = torch.randn(shape, generator=generator, device=device)
    if leaf == "weight" and len(shape) >= 2:
        gain = _RESIDUAL_GAIN if name.endswith(_RESIDUAL_ENDS) else 1.0
        return value.mul_(gain / math.sqrt(math.prod(shape[1:])))
    return value.mul_(0.5)  # class, register and position tokens


def _damp_velocity(name: str, value: torch.Tensor) -> torch.Tensor:
    return value.mul_(_VELOCITY_GAIN) if name in ("conv_out.weight", "out_layer.weight") else value


def _blur_occupancy(name: str, value: torch.Tensor) -> torch.Tensor:
    """Make occupied voxels blobs rather than dust: a kernel that is equal at all its taps."""
    if name != "out_layer.2.weight":
        return value
    taps = math.prod(value.shape[2:])
    return value.mean(dim=(2, 3, 4), keepdim=True).mul_(math.sqrt(taps)).expand_as(value)


@torch.inference_mode()
def _set_occupancy(decoder: nn.Module, channels: int, device: torch.device) -> None:
    """Move the occupancy logits so that a Gaussian latent occupies the wanted share of voxels."""
    generator = torch.Generator(device).manual_seed(_SEED)
    shape = (2, channels, *[_OCCUPANCY_LATENT] * 3)
    logits = decoder(torch.randn(shape, generator=generator, device=device)).float()
    bias = decoder.get_parameter("out_layer.2.bias")
    bias.sub_(logits.quantile(1 - _OCCUPANCY).to(bias.dtype))


def _close_surface(name: str, value: torch.Tensor) -> torch.Tensor:
    """Put every corner of an occupied cell inside: the mesh is then the hull of the voxels."""
    if name == "out_layer.bias":
        value[:8] = -1.0
    return value.mul_(_VELOCITY_GAIN) if name == "out_layer.weight" else value


_READ_OUTS: dict[Component, Callable[[str, torch.Tensor], torch.Tensor]] = {
    Component.JOINT_MODEL: _damp_velocity,
    Component.LATENT_FLOW: _damp_velocity,
    Component.STRUCTURE_DECODER: _blur_occupancy,
    Component.MESH_DECODER: _close_surface,
}


def _shape_read_out(component: Component, name: str, value: torch.Tensor) -> torch.Tensor:
    shape = _READ_OUTS.get(component)
    return value if shape is None else shape(name, value)
