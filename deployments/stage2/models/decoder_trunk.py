"""What the Gaussian and the mesh decoder have in common, apart from weights (model.md 13)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.layers.embeddings import position_embedding
from deployments.layers.modulated_block import FeedForward, SelfAttention
from deployments.layers.sparse.tensor import SparseTensor
from deployments.layers.sparse.windows import Windows
from deployments.stage2.models.config import TrunkConfig
from deployments.stage2.models.precision import cast_matrices, matrix_dtype
from deployments.stage2.models.view_features import CellFeatures, read_views

_EPS = 1e-6


class MultiviewBlock(nn.Module):
    """Window attention, then a step that reads the pictures, then an MLP."""

    def __init__(self, channels: int, heads: int, mlp_ratio: float, mv_dim: int) -> None:
        super().__init__()
        self.channels, self.mv_dim = channels, mv_dim
        self.attn = SelfAttention(channels, heads, qk_rms_norm=False)
        self.mv_condition = nn.Sequential(
            nn.Linear(channels + 8 * mv_dim, 4 * channels),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * channels, channels),
        )
        self.mlp = FeedForward(channels, mlp_ratio)

    def forward(self, x: Tensor, windows: Windows, views: Sequence[CellFeatures]) -> Tensor:
        """(N, C) -> (N, C)."""
        h = F.layer_norm(x, (self.channels,), eps=_EPS)
        together = self.attn(h.index_select(0, windows.order), windows.lengths)
        x = x + together.index_select(0, windows.place)
        x = x + self._read_pictures(F.layer_norm(x, (self.channels,), eps=_EPS), views)
        return x + self.mlp(F.layer_norm(x, (self.channels,), eps=_EPS))

    def _read_pictures(self, h: Tensor, views: Sequence[CellFeatures]) -> Tensor:
        """``mv_condition`` of [voxel | normal of 4 views | colour of 4 views], piece by piece.

        The first layer is linear, so the pieces are multiplied where they are few and then added.
        """
        first = self.mv_condition[0]
        assert isinstance(first, nn.Linear)
        hidden = F.linear(h, first.weight[:, : self.channels], first.bias)  # (N, 4 C)
        # (4 C, normal | colour, views 0 1 | 2 3, even | odd view, mv_dim)
        weight = first.weight[:, self.channels :].view(-1, 2, 2, 2, self.mv_dim)
        for parity, view in enumerate(views):
            by_cell = F.linear(view.feats, weight[:, :, :, parity].flatten(1))
            hidden = hidden + by_cell.index_select(0, view.cell)
        return self.mv_condition[1:](hidden)


class DecoderTrunk(nn.Module):
    """Latents and picture features on voxels -> feature rows for a head.

    The decoders inherit from it, because official names have no prefix for the trunk.
    """

    def __init__(self, config: TrunkConfig, dtype: torch.dtype = torch.float32) -> None:
        """``dtype`` is that of the matrices in the blocks."""
        super().__init__()
        self.trunk_config = config
        self.input_layer = nn.Linear(config.latent_channels, config.model_channels)
        self.input_layer_color = nn.Linear(config.feature_channels, config.mv_dim)
        self.input_layer_normal = nn.Linear(config.feature_channels, config.mv_dim)
        self.blocks = nn.ModuleList(
            MultiviewBlock(config.model_channels, config.num_heads, config.mlp_ratio, config.mv_dim)
            for _ in range(config.num_blocks)
        )
        cast_matrices(self.blocks, dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The type in which activations travel through the blocks."""
        return matrix_dtype(self.blocks)

    def trunk(self, latent: SparseTensor, color: Tensor, normal: Tensor) -> Tensor:
        """Latents (N, 8) on voxels, features (B, 4, G, G, F) each -> (N, C) in ``dtype``."""
        config = self.trunk_config
        h = self.input_layer(latent.feats.to(self.input_layer.weight.dtype))
        h = (h + position_embedding(latent.coords[:, 1:], config.model_channels)).to(self.dtype)
        views = self.read_views(latent, color, normal)
        half = config.window_size // 2
        for index, block in enumerate(self.blocks):
            shift = half if index % 2 else 0
            h = block(h, latent.sites.windows(config.window_size, shift), views)
        return h

    def read_views(
        self, latent: SparseTensor, color: Tensor, normal: Tensor
    ) -> tuple[CellFeatures, CellFeatures]:
        """The picture features that the voxels of ``latent`` read, projected, in ``dtype``."""
        views = read_views(
            latent.coords,
            self.trunk_config.resolution,
            color,
            normal,
            self.input_layer_color,
            self.input_layer_normal,
            scaled=self.trunk_config.feature_map == "scaled",
        )
        first, second = (CellFeatures(view.feats.to(self.dtype), view.cell) for view in views)
        return first, second
