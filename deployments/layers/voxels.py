"""Dense voxel grids: patches to tokens and back, and the 3-D pixel shuffle (model.md 6.5, 8)."""

from __future__ import annotations

from torch import Tensor


def patchify(grid: Tensor, patch: int) -> Tensor:
    """(B, C, R, R, R) -> (B, C patch^3, r, r, r); channel index: c, then place x, y, z."""
    if patch == 1:
        return grid
    r = grid.shape[-1] // patch
    cells = grid.unflatten(4, (r, patch)).unflatten(3, (r, patch)).unflatten(2, (r, patch))
    return cells.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def pixel_shuffle_3d(grid: Tensor, factor: int) -> Tensor:
    """(B, C factor^3, r, r, r) -> (B, C, R, R, R): the inverse of ``patchify``."""
    if factor == 1:
        return grid
    cells = grid.unflatten(1, (-1, factor, factor, factor))  # (B, C, fx, fy, fz, x, y, z)
    return cells.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(6, 7).flatten(4, 5).flatten(2, 3)
