"""Picture features as the decoders read them: per pixel, shared by the voxels behind it.

A voxel reads one feature cell of each of the four views (model.md 3). Views 0 and 2 look along y
and are stored aligned, so a voxel's cell is the same in both; likewise views 1 and 3 along x. The
cells that are read at all are a few per cent of voxels times views, so features are projected per
cell, and only the result is handed to the voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_LOOKING_ALONG_Y, _LOOKING_ALONG_X = (0, 2), (1, 3)


@dataclass(frozen=True)
class CellFeatures:
    """Features of the cells that voxels read in two opposite views."""

    feats: Tensor  # (P, 4 C): normal of both views, then colour of both views
    cell: Tensor  # (N,) int64, the cell of every voxel


def read_views(
    coords: Tensor,
    resolution: int,
    color: Tensor,
    normal: Tensor,
    color_layer: nn.Linear,
    normal_layer: nn.Linear,
    *,
    scaled: bool,
) -> tuple[CellFeatures, CellFeatures]:
    """Gather and project what the voxels read in views 0 and 2, and in views 1 and 3.

    ``coords`` (N, 4) are voxels of a grid of ``resolution``, ``color`` and ``normal``
    (B, 4, G, G, F) features with row 0 at the top. The layers set the type.
    """
    grid = color.shape[2]
    batch, x, y, z = coords.long().unbind(-1)
    if scaled:
        row, x, y = ((axis * grid) // resolution for axis in (resolution - 1 - z, x, y))
    else:
        row = grid - 1 - z

    def pair(views: tuple[int, int], column: Tensor) -> CellFeatures:
        cells, cell = torch.unique((batch * grid + row) * grid + column, return_inverse=True)
        b, r, c = cells // grid**2, cells // grid % grid, cells % grid
        parts = [
            layer(features[b, view, r, c].to(layer.weight.dtype))
            for features, layer in ((normal, normal_layer), (color, color_layer))
            for view in views
        ]
        return CellFeatures(torch.cat(parts, dim=-1), cell)

    return pair(_LOOKING_ALONG_Y, x), pair(_LOOKING_ALONG_X, y)
