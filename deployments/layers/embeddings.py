"""Sinusoids of time, noise level and position, and the flows' time MLP (model.md 6.2, 6.5)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

_PERIOD = 10_000.0


def sinusoid(values: Tensor, channels: int) -> Tensor:
    """(B,) -> (B, channels): cosines of all frequencies, then sines, in float32.

    Frequency i of n = channels / 2 is 10000^(-i/n).
    """
    angles = values.float()[:, None] * _frequencies(channels // 2, values.device)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


@lru_cache
@torch.inference_mode(False)
def _frequencies(count: int, device: torch.device) -> Tensor:
    """10000^(-i / count) for i below ``count``, float32.

    Libraries differ in the last bit of a float32 exponential, and at t = 1000 that bit shows as
    6e-5 in the sinusoid. So the exponential is put together here from a power of sqrt(2) and a
    rest, in an order of roundings that gives the published values on every machine.
    """
    exponents = -math.log(_PERIOD) * torch.arange(count, dtype=torch.float32, device="cpu") / count
    exact = exponents.double()
    octaves = torch.round(exact * (2 / math.log(2))) / 2
    power = torch.exp2(octaves)
    head = power.float()
    rest = torch.expm1(exact - octaves * math.log(2)).float()
    return (head + (head.double() * rest + (power - head)).float()).to(device)


def position_embedding(coordinates: Tensor, channels: int) -> Tensor:
    """Integer or float coordinates (N, axes) -> (N, channels) float32.

    Every axis takes channels // axes // 2 frequencies, sines before cosines; the channels that the
    division leaves over are zero.
    """
    axes = coordinates.shape[-1]
    count = channels // axes // 2
    exponents = torch.arange(count, dtype=torch.float32, device=coordinates.device) / count
    angles = coordinates.float()[..., None] / _PERIOD**exponents  # (N, axes, count)
    table = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
    return nn.functional.pad(table, (0, channels - table.shape[-1]))


def grid_position_table(resolution: int, channels: int) -> Tensor:
    """Position embedding of every cell of a cubic grid in row-major x, y, z order (R^3, C)."""
    axis = torch.arange(resolution)
    cells = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    return position_embedding(cells.reshape(-1, 3), channels)


class TimestepEmbedder(nn.Module):
    """Model time (1000 t) -> time vector: sinusoid of width 256, then a two-layer MLP."""

    def __init__(self, channels: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(
            nn.Linear(frequencies, channels), nn.SiLU(), nn.Linear(channels, channels)
        )

    def forward(self, time: Tensor) -> Tensor:
        """(B,) -> (B, C) in the dtype of the weights."""
        weight: Tensor = self.mlp[0].weight  # type: ignore[assignment]
        return self.mlp(sinusoid(time, self.frequencies).to(weight.dtype))
