"""Gradient of a sparse convolution's weight: plain, and on CUDA by a kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from deployments.layers.sparse.backend import SparseBackend, current_sparse_backend


def weight_gradient(gradient: Tensor, feats: Tensor, table: Tensor) -> Tensor:
    """(N, C') and (M, C) through ``table`` (27, N) -> (C', 27, C) float32.

    The sum over rows of the outer products of a row's gradient and of its source's features.
    """
    if current_sparse_backend() is SparseBackend.TRITON and feats.is_cuda:
        from training.convolution_gradient_triton import weight_gradient_triton

        return weight_gradient_triton(gradient, feats, table)
    return weight_gradient_torch(gradient, feats, table)


def weight_gradient_torch(gradient: Tensor, feats: Tensor, table: Tensor) -> Tensor:
    """The reference: one product an offset, over the rows that have a neighbour there."""
    parts = []
    for sources in table:
        rows = (sources >= 0).nonzero()[:, 0]
        parts.append(gradient[rows].float().T @ feats[sources[rows]].float())
    return torch.stack(parts, 1)
