"""Means over the cells of a coarser grid, as one matrix product (model.md 6.6).

A cell reaches from the floor of its lower to the ceiling of its upper bound, so neighbours share
what lies between them. With the published sizes (24 to 16, 16 to 12) every cell has two places an
axis, and the matrix holds powers of two: the product is exact in half precision, too.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def cell_means(x: Tensor, cells: int) -> Tensor:
    """(B, S, S[, S], C) -> means over ``cells`` an axis (B, cells^2 or cells^3, C)."""
    matrix = _weights(x.shape[1], cells, x.ndim - 2, x.device, x.dtype)
    return matrix @ x.flatten(1, -2)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _weights(size: int, cells: int, axes: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Share of every place in every cell (cells^axes, size^axes), row-major both."""
    one = torch.zeros(cells, size)
    for cell in range(cells):
        first, last = cell * size // cells, -(-(cell + 1) * size // cells)
        one[cell, first:last] = 1 / (last - first)
    weights = one
    for _ in range(axes - 1):
        weights = torch.kron(weights, one)
    return weights.to(device, dtype)
