"""Neighbour tables of sparse sites: which row holds the voxel next door.

The 27 offsets are ordered like the kernel axes of a convolution weight: kx, ky, kz from -1 to 1,
the last fastest. Tables are (27, N) int32 with -1 for an empty neighbour.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = 16  # per coordinate
OFFSETS = tuple((x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1))


def pack_keys(coords: Tensor) -> Tensor:
    """(N, 4) batch item, x, y, z -> (N,) int64 in the same order.

    Coordinates are moved up by one, so that the key of a neighbour is the key plus a constant even
    at the border of the grid.
    """
    batch, x, y, z = coords.long().unbind(-1)
    return (((batch << _BITS | x + 1) << _BITS) | y + 1) << _BITS | z + 1


def neighbour_table(keys: Tensor) -> Tensor:
    """Find the 27 neighbours of every key among the keys by binary search."""
    table = torch.full((len(OFFSETS), keys.shape[0]), -1, dtype=torch.int32, device=keys.device)
    if keys.shape[0] == 0:
        return table
    ascending, order = keys.sort()
    for row, (dx, dy, dz) in zip(table, OFFSETS, strict=True):
        wanted = keys + ((dx << 2 * _BITS) + (dy << _BITS) + dz)
        place = torch.searchsorted(ascending, wanted).clamp_(max=keys.shape[0] - 1)
        found = ascending[place] == wanted
        row.copy_(torch.where(found, order[place], -1))
    return table


def subdivided_neighbour_table(parents: Tensor) -> Tensor:
    """Neighbours after every voxel was split in eight, from the table before; nothing is searched.

    (27, N) -> (27, 8 N). A step of one from child p along an axis ends in child (p + d) mod 2 of
    the parent floor((p + d) / 2) steps away.
    """
    table = parents.new_empty(len(OFFSETS), parents.shape[1], 8)
    for row, offset in zip(table, OFFSETS, strict=True):
        for child in range(8):
            ends = [(child >> 2) + offset[0], (child >> 1 & 1) + offset[1], (child & 1) + offset[2]]
            x, y, z = (end // 2 + 1 for end in ends)
            parent = parents[9 * x + 3 * y + z]
            inside = 4 * (ends[0] % 2) + 2 * (ends[1] % 2) + ends[2] % 2
            row[:, child] = torch.where(parent >= 0, 8 * parent + inside, -1)
    return table.flatten(1)
