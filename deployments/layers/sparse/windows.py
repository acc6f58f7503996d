"""Windows of voxels that attend to each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deployments.layers.sparse.neighbours import pack_keys


@dataclass(frozen=True)
class Windows:
    """A partition of the rows: window after window, in ascending order of batch item and place."""

    order: Tensor  # (N,) int64, rows sorted by window, stable
    place: Tensor  # (N,) int64, where each row went: ``sorted[place]`` restores the order
    lengths: tuple[int, ...]  # rows of every window, none of them empty


def window_partition(coords: Tensor, size: int, shift: int) -> Windows:
    """Rows with equal (batch item, floor((coordinate + shift) / size)) share a window."""
    place = torch.cat([coords[:, :1], (coords[:, 1:] + shift) // size], dim=1)
    keys, order = pack_keys(place).sort(stable=True)
    _, counts = torch.unique_consecutive(keys, return_counts=True)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.shape[0], device=order.device)
    return Windows(order, inverse, tuple(counts.tolist()))
