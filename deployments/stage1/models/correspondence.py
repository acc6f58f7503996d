"""Which pixels a voxel sees and which voxels a pixel sees (model.md section 3).

Voxel axes are x, y, z with z up, picture axes row (top first) and column: the row runs along -z.
The stored pictures of the back and the left view are mirrored, so the column runs along +x for
views 0 and 2 and along +y for views 1 and 3. View 4, the face, takes no part.

F below stands for any further axes.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from deployments.layers.attention.gathered import as_picks

BODY_VIEWS = 4


def pixels_of_voxels(pictures: Tensor) -> Tensor:
    """What the four body views show at every voxel of a cubic grid of their size.

    ``pictures`` is (B, 4, R, R, *F); returns (B, R, R, R, 4, *F) over x, y, z and the views in the
    order front, back, right, left.
    """
    size = pictures.shape[2]
    columns = pictures.flip(2).transpose(2, 3)  # (B, 4, column, z, *F)
    front, right, back, left = columns.unbind(1)
    over_y = [_repeat(view, 2, size) for view in (front, back)]
    over_x = [_repeat(view, 1, size) for view in (right, left)]
    return torch.stack([*over_y, *over_x], dim=4)


def voxels_of_pixels(cells: Tensor) -> Tensor:
    """The voxels along the viewing axis of every pixel of pictures of the grid's size.

    ``cells`` is (B, S, S, S, *F) over x, y, z; returns (B, 4, S, S, S, *F) over views front, right,
    back, left, then row, column and depth in ascending y (views 0, 2) or x (views 1, 3).
    """
    rows = cells.flip(3).movedim(3, 1)  # (B, row, x, y, *F)
    along_y, along_x = rows, rows.transpose(2, 3)
    return torch.stack([along_y, along_x, along_y, along_x], dim=1)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def picks_of_voxels(size: int, device: torch.device) -> Tensor:
    """``pixels_of_voxels`` as numbers of places in (4, R, R): (R^3, 4)."""
    places = torch.arange(BODY_VIEWS * size**2).view(1, BODY_VIEWS, size, size)
    return as_picks(pixels_of_voxels(places).view(size**3, BODY_VIEWS)).to(device)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def picks_of_pixels(size: int, device: torch.device) -> Tensor:
    """``voxels_of_pixels`` as numbers of places in (S, S, S): (4 S^2, S)."""
    places = torch.arange(size**3).view(1, size, size, size)
    return as_picks(voxels_of_pixels(places).view(BODY_VIEWS * size**2, size)).to(device)


def _repeat(x: Tensor, axis: int, count: int) -> Tensor:
    shape = [-1] * (x.ndim + 1)
    shape[axis] = count
    return x.unsqueeze(axis).expand(shape)
