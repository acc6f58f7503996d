"""The decoder that splits every voxel in 64 and describes a surface in each (model.md 13, 15)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.layers.sparse.convolution import PointwiseConv3d, SubmanifoldConv3d
from deployments.layers.sparse.normalization import SparseGroupNorm
from deployments.layers.sparse.tensor import SparseTensor
from deployments.stage2.models.config import MeshDecoderConfig
from deployments.stage2.models.decoder_trunk import DecoderTrunk
from deployments.stage2.models.precision import cast_matrices

_GROUPS = 32


class SubdivideBlock(nn.Module):
    """A residual block whose output has eight voxels for each of its input."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.act_layers = nn.ModuleList([SparseGroupNorm(_GROUPS, channels)])
        self.out_layers = nn.ModuleDict(
            {
                "0": SubmanifoldConv3d(channels, out_channels),
                "1": SparseGroupNorm(_GROUPS, out_channels),
                "3": SubmanifoldConv3d(out_channels, out_channels),
            }
        )
        self.skip_connection = (
            nn.Identity() if channels == out_channels else PointwiseConv3d(channels, out_channels)
        )

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(N, C) -> (8 N, C') at twice the resolution."""
        fine = x.sites.subdivided
        h = F.silu(self.act_layers[0](x.feats, x.sites))
        h = self.out_layers["0"].on_children(h, x.sites)  # type: ignore[operator]
        h = F.silu(self.out_layers["1"](h, fine))
        h = self.out_layers["3"](h, fine)
        # The skip has one value for all children of a voxel, so it is computed before the split.
        skip = self.skip_connection(x.feats)
        return SparseTensor(fine, (h.view(-1, 8, h.shape[-1]) + skip[:, None]).flatten(0, 1))


class MeshDecoder(DecoderTrunk):
    """Trunk, two subdivisions, one linear layer without a norm before it."""

    def __init__(self, config: MeshDecoderConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(config, dtype)
        self.config = config
        width = config.model_channels
        self.upsample = nn.ModuleList(
            [SubdivideBlock(width, width // 4), SubdivideBlock(width // 4, width // 8)]
        )
        self.out_layer = nn.Linear(width // 8, config.out_channels)
        cast_matrices(self.upsample, dtype)

    @property
    def mesh_resolution(self) -> int:
        """Voxels a side of the grid that the output lives on: 256 official."""
        return 4 * self.config.resolution

    def forward(self, latent: SparseTensor, color: Tensor, normal: Tensor) -> SparseTensor:
        """Latents (N, 8), features (B, 4, G, G, F) -> channels (64 N, 101) at four times the grid.

        Channels: sdf 8, deform 8 x 3, weights 21, colour 8 x 6.
        """
        h = latent.with_feats(self.trunk(latent, color, normal))
        for block in self.upsample:
            h = block(h)
        return h.with_feats(self.out_layer(h.feats.to(self.out_layer.weight.dtype)).float())
