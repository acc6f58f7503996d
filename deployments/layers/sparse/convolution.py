"""Sub-manifold convolution: outputs exist exactly where inputs do (model.md 11)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deployments.layers.sparse.backend import SparseBackend, current_sparse_backend
from deployments.layers.sparse.sites import Sites


class SubmanifoldConv3d(nn.Module):
    """Cross-correlation with a 3^3 kernel over the neighbours that exist.

    Equals a dense ``Conv3d`` with padding 1 on the zero-filled grid, read at the sites. Official
    checkpoints store ``conv.weight`` as (out, kx, ky, kz, in), and so does this module.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.ParameterDict(
            {
                "weight": nn.Parameter(torch.empty(out_channels, 3, 3, 3, in_channels)),
                "bias": nn.Parameter(torch.empty(out_channels)),
            }
        )

    def forward(self, feats: Tensor, sites: Sites) -> Tensor:
        """(N, C) on ``sites`` -> (N, C')."""
        return convolve(feats, self.conv["weight"], self.conv["bias"], sites.neighbours)

    def on_children(self, feats: Tensor, sites: Sites) -> Tensor:
        """Convolution after ``subdivide``, without the copies: (N, C) -> (8 N, C').

        A child's row is its parent's, so the children's table may point to the parents' rows.
        """
        table = sites.subdivided.neighbours >> 3  # 8 parent + child -> parent; -1 stays -1
        return convolve(feats, self.conv["weight"], self.conv["bias"], table)


class PointwiseConv3d(nn.Module):
    """The 1^3 sparse convolution of the official checkpoints, which is not a linear layer.

    The library they were trained with reads the memory of the (out, 1, 1, 1, in) weight as an
    (in, out) matrix, without transposing it; the weights only make sense that way (model.md 11).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.ParameterDict(
            {
                "weight": nn.Parameter(torch.empty(out_channels, 1, 1, 1, in_channels)),
                "bias": nn.Parameter(torch.empty(out_channels)),
            }
        )

    def forward(self, feats: Tensor) -> Tensor:
        """(N, C) -> (N, C')."""
        weight = self.conv["weight"]
        matrix = weight.reshape(weight.shape[-1], weight.shape[0])  # (in, out), re-viewed
        return torch.addmm(self.conv["bias"], feats, matrix)


def convolve(feats: Tensor, weight: Tensor, bias: Tensor, table: Tensor) -> Tensor:
    """bias + sum over k of W[:, k] feats[table[k]], leaving out k where ``table`` is -1.

    ``feats`` is (M, C), ``weight`` (C', 3, 3, 3, C), ``table`` (27, N) int32; returns (N, C').
    """
    if current_sparse_backend() is SparseBackend.TRITON and feats.is_cuda:
        from deployments.layers.sparse.convolution_triton import convolve_triton

        return convolve_triton(feats, weight, bias, table)
    return convolve_torch(feats, weight, bias, table)


def convolve_torch(feats: Tensor, weight: Tensor, bias: Tensor, table: Tensor) -> Tensor:
    """The reference: for each of the 27 neighbours gather, multiply, add; sums in float32 at least.

    On a CPU this is three to four times as fast as one wide matrix product over all neighbours
    gathered side by side, because the pieces stay in its caches.
    """
    weights = weight.flatten(1, 3).permute(1, 2, 0)  # (27, C, C')
    total = torch.promote_types(feats.dtype, torch.float32)
    out = bias.to(total).repeat(table.shape[1], 1)
    for sources, matrix in zip(table, weights, strict=True):
        rows = (sources >= 0).nonzero()[:, 0]  # no row twice, so the sum is reproducible
        out.index_add_(0, rows, (feats[sources[rows]] @ matrix).to(total))
    return out.to(feats.dtype)
