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
    if keys.shape[0] == 0:
        return torch.empty(len(OFFSETS), 0, dtype=torch.int32, device=keys.device)
    ascending, order = keys.sort()
    steps = [(dx << 2 * _BITS) + (dy << _BITS) + dz for dx, dy, dz in OFFSETS]
    wanted = keys + torch.tensor(steps, device=keys.device)[:, None]  # (27, N)
    place = torch.searchsorted(ascending, wanted).clamp_(max=keys.shape[0] - 1)
    return torch.where(ascending[place] == wanted, order[place], -1).int()


def subdivided_neighbour_table(parents: Tensor) -> Tensor:
    """Neighbours after every voxel was split in eight, from the table before; nothing is searched.

    (27, N) -> (27, 8 N). A step of one from child p along an axis ends in child (p + d) mod 2 of
    the parent floor((p + d) / 2) steps away.
    """
    ends = [
        [tuple(c + d for c, d in zip(child, offset, strict=True)) for child in _CHILDREN]
        for offset in OFFSETS
    ]
    rows = [[_row(tuple(end // 2 for end in e)) for e in of_offset] for of_offset in ends]
    inside = [
        [_CHILDREN.index(tuple(end % 2 for end in e)) for e in of_offset] for of_offset in ends
    ]
    parent = parents[torch.tensor(rows, device=parents.device).flatten()]  # (27 * 8, N)
    child = torch.tensor(inside, dtype=parents.dtype, device=parents.device).flatten()[:, None]
    table = torch.where(parent >= 0, 8 * parent + child, -1)
    return table.view(len(OFFSETS), 8, -1).transpose(1, 2).flatten(1).contiguous()


_CHILDREN = tuple((x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1))


def _row(offset: tuple[int, ...]) -> int:
    """The row of an offset in ``OFFSETS``."""
    x, y, z = offset
    return 9 * (x + 1) + 3 * (y + 1) + z + 1
