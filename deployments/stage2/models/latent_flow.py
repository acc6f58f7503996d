"""The flow that turns noise on the occupied voxels into latents (model.md 12)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.layers.embeddings import TimestepEmbedder, position_embedding
from deployments.layers.modulated_block import ModulatedBlock
from deployments.layers.sparse.tensor import SparseTensor
from deployments.stage2.models.config import LatentFlowConfig
from deployments.stage2.models.precision import cast_matrices, matrix_dtype
from deployments.stage2.models.residual_block import Resample, SparseResidualBlock


class LatentFlow(nn.Module):
    """A sparse U with one level: residual blocks at full, a transformer at half resolution."""

    def __init__(self, config: LatentFlowConfig, dtype: torch.dtype = torch.float32) -> None:
        """``dtype`` is that of the matrices between input and output layer."""
        super().__init__()
        self.config = config
        width, (fine,) = config.model_channels, config.io_block_channels
        plain = config.num_io_res_blocks - 1
        self.t_embedder = TimestepEmbedder(width)
        self.input_layer = nn.Linear(config.in_channels, fine)
        self.input_blocks = nn.ModuleList(
            [
                *(SparseResidualBlock(fine, fine, width) for _ in range(plain)),
                SparseResidualBlock(fine, width, width, Resample.DOWN),
            ]
        )
        self.blocks = nn.ModuleList(
            ModulatedBlock(
                width,
                config.cond_channels,
                config.num_heads,
                mlp_ratio=config.mlp_ratio,
                qk_rms_norm=config.qk_rms_norm,
            )
            for _ in range(config.num_blocks)
        )
        self.out_blocks = nn.ModuleList(
            [
                SparseResidualBlock(2 * width, fine, width, Resample.UP),
                *(SparseResidualBlock(2 * fine, fine, width) for _ in range(plain)),
            ]
        )
        self.out_layer = nn.Linear(fine, config.out_channels)
        cast_matrices((self.input_blocks, self.blocks, self.out_blocks), dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The type in which activations travel between input and output layer."""
        return matrix_dtype(self.blocks)

    def context_keys(self, context: Tensor) -> list[Tensor]:
        """Keys and values of the condition for every block: (B, L, C') -> (B, L, 2, H, D) each.

        They are the same at every step of a run.
        """
        context = context.to(self.dtype)
        return [block.context_keys(context) for block in self.blocks]  # type: ignore[operator]

    def forward(self, x: SparseTensor, time: Tensor, context_keys: Sequence[Tensor]) -> Tensor:
        """Velocity (N, out) in float32 at model time ``time`` = 1000 t, (B or 1,).

        ``context_keys`` holds one batch item for each of ``x``.
        """
        emb = self.t_embedder(time).to(self.dtype)
        h = x.with_feats(self.input_layer(x.feats.to(self.input_layer.weight.dtype)).to(self.dtype))
        skips = []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)

        h = h.with_feats(self._transform(h, emb, context_keys))

        for block in self.out_blocks:
            skip = skips.pop()
            joined = h.with_feats(torch.cat([h.feats, skip.feats], dim=-1))
            h = block(joined, emb, like=x)

        feats = F.layer_norm(h.feats, h.feats.shape[-1:])  # eps 1e-5
        return self.out_layer(feats.to(self.out_layer.weight.dtype)).float()

    def _transform(self, x: SparseTensor, emb: Tensor, context_keys: Sequence[Tensor]) -> Tensor:
        """The transformer blocks at half resolution, (N, C) -> (N, C)."""
        width, lengths = self.config.model_channels, x.sites.lengths
        feats = x.feats + position_embedding(x.coords[:, 1:], width).to(x.feats.dtype)
        for block, keys in zip(self.blocks, context_keys, strict=True):
            feats = block(feats, block.modulation(emb), keys, lengths)  # type: ignore[operator]
        return feats
