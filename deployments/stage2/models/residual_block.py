"""Residual blocks around the transformer of the latent flow (model.md 12)."""

from __future__ import annotations

from enum import Enum

import torch.nn.functional as F
from torch import Tensor, nn

from deployments.layers.normalization import LayerNorm
from deployments.layers.sparse.convolution import SubmanifoldConv3d
from deployments.layers.sparse.resampling import downsample, upsample
from deployments.layers.sparse.tensor import SparseTensor


class Resample(Enum):
    """What a residual block does to its input before anything else."""

    NONE = "none"
    DOWN = "down"
    UP = "up"


class SparseResidualBlock(nn.Module):
    """Two sub-manifold convolutions, the second modulated by time: scale first, then shift."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        time_channels: int,
        resample: Resample = Resample.NONE,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = LayerNorm(channels, eps=1e-6)
        self.norm2 = LayerNorm(out_channels, eps=1e-6, affine=False)
        self.conv1 = SubmanifoldConv3d(channels, out_channels)
        self.conv2 = SubmanifoldConv3d(out_channels, out_channels)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_channels, 2 * out_channels))
        self.skip_connection = (
            nn.Identity() if channels == out_channels else nn.Linear(channels, out_channels)
        )

    def forward(
        self, x: SparseTensor, time: Tensor, like: SparseTensor | None = None
    ) -> SparseTensor:
        """Features (N, C) and time embedding (B or 1, E) -> (N', C').

        ``like`` is the tensor on the finer sites that an up-sampling block returns to.
        """
        if self.resample is Resample.DOWN:
            x = downsample(x)
        elif self.resample is Resample.UP:
            assert like is not None, "up-sampling returns to the sites of a finer tensor"
            x = upsample(x, like)
        modulation = self.emb_layers(time)
        if modulation.shape[0] > 1:
            modulation = modulation.index_select(0, x.coords[:, 0].long())  # one row a voxel
        scale, shift = modulation.chunk(2, dim=-1)
        h = self.conv1(F.silu(self.norm1(x.feats)), x.sites)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift), x.sites)
        return x.with_feats(h + self.skip_connection(x.feats))
