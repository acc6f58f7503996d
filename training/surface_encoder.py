"""The surface in every voxel to eight numbers: what the latent flow learns to make up."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.layers.sparse.convolution import SubmanifoldConv3d
from deployments.layers.sparse.sites import Sites
from training.people.occupancy import SurfaceSummary

PART = "surface_encoder"
INPUTS = 9  # mean offset, normal, colour


class SurfaceEncoder(nn.Module):
    """Summaries (N, 9) on voxels -> mean and log variance (N, C) of the latents."""

    def __init__(self, latent_channels: int, width: int = 64, blocks: int = 2) -> None:
        super().__init__()
        self.input_layer = nn.Linear(INPUTS, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.out_layer = nn.Linear(width, 2 * latent_channels)

    def forward(self, summary: SurfaceSummary, sites: Sites) -> tuple[Tensor, Tensor]:
        values = torch.cat([summary.offset, summary.normal, summary.color - 0.5], 1)
        h = self.input_layer(values)
        for block in self.blocks:
            h = block(h, sites)
        mean, log_variance = self.out_layer(F.silu(h)).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-12, 6)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv1 = SubmanifoldConv3d(width, width)
        self.conv2 = SubmanifoldConv3d(width, width)

    def forward(self, h: Tensor, sites: Sites) -> Tensor:
        inner = F.silu(self.conv1(F.silu(self.norm(h)), sites))
        return h + self.conv2(inner, sites)
