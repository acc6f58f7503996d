"""The z-buffer of texture/rasterizer.py as tensor operations, for a GPU.

Every triangle lists the pixels of its bounding box; the smallest (depth, face) wins each pixel by
one scattered minimum, so the result does not depend on the order in which threads run.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deployments.stage2.texture.device.portions import portions

CANDIDATES = 1 << 22  # pixels of bounding boxes handled at once: bounds the memory to 0.5 GB
EDGE = -1e-7  # a pixel this far outside an edge still belongs to the triangle
_NOTHING = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class DeviceRaster:
    """One value per pixel of a picture of H rows and W columns."""

    face: Tensor  # (H, W) int64, the nearest triangle, -1 where there is none
    depth: Tensor  # (H, W) float32, its depth, infinite where there is none

    @property
    def covered(self) -> Tensor:
        """(H, W) pixels with a triangle."""
        return self.face >= 0


def rasterize(points: Tensor, faces: Tensor, shape: tuple[int, int]) -> DeviceRaster:
    """Draw triangles; the smaller depth wins, then the smaller face number.

    Args:
        points: (V, 3) float64 column, row, depth; pixel (r, c) has its centre at (c, r).
        faces: (F, 3) int64; both windings are drawn.
        shape: H, W.
    """
    height, width = shape
    corner = points[faces]  # (F, 3, 3)
    low, high = corner[..., :2].amin(1).ceil(), corner[..., :2].amax(1).floor()
    left, right = low[:, 0].clamp(0, width).long(), high[:, 0].clamp(-1, width - 1).long()
    top, bottom = low[:, 1].clamp(0, height).long(), high[:, 1].clamp(-1, height - 1).long()
    across = (right - left + 1).clamp(min=0)
    count = across * (bottom - top + 1).clamp(min=0) * (_doubled_area(corner) != 0)

    best = torch.full((height * width,), _NOTHING, dtype=torch.int64, device=points.device)
    drawn = count.nonzero()[:, 0]
    for first, last in portions(count[drawn], CANDIDATES):
        own = drawn[first:last]
        number = count[own]
        start = number.cumsum(0) - number
        face = own.repeat_interleave(number)
        place = torch.arange(len(face), device=face.device) - start.repeat_interleave(number)
        row = top[face] + place.div(across[face], rounding_mode="floor")
        column = left[face] + place % across[face]
        weights = _barycentric(corner[face], column, row)
        inside = (weights >= EDGE).all(1).nonzero()[:, 0]
        face = face[inside]
        depth = (weights[inside] * corner[face][..., 2]).sum(1).float()
        pixel = row[inside] * width + column[inside]
        best.scatter_reduce_(0, pixel, (_ordered(depth) << 32) | face, "amin")

    found = best != _NOTHING
    infinite = torch.full_like(best, torch.inf, dtype=torch.float32)
    return DeviceRaster(
        torch.where(found, best & 0xFFFFFFFF, -1).view(shape),
        torch.where(found, _unordered(best >> 32), infinite).view(shape),
    )


def interpolate(raster: DeviceRaster, points: Tensor, faces: Tensor, values: Tensor) -> Tensor:
    """Vertex values (V, C) at every covered pixel, in row order, (covered pixels, C).

    ``points`` and ``faces`` are those that were drawn.
    """
    row, column = raster.covered.nonzero().unbind(1)
    triangle = faces[raster.face[row, column]]
    weights = _barycentric(points[triangle], column, row).to(values.dtype)
    total = values[triangle[:, 0]] * weights[:, :1]
    for corner in (1, 2):
        total += values[triangle[:, corner]] * weights[:, corner : corner + 1]
    return total


def _doubled_area(corner: Tensor) -> Tensor:
    (x0, y0), (x1, y1), (x2, y2) = (corner[:, k, :2].unbind(1) for k in range(3))
    return (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)


def _barycentric(corner: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Weights of the three corners (N, 3) at pixels of triangles (N, 3, 2 or 3)."""
    (x0, y0), (x1, y1), (x2, y2) = (corner[:, k, :2].unbind(1) for k in range(3))
    scale = 1.0 / _doubled_area(corner)
    b = ((column - x0) * (y2 - y0) - (x2 - x0) * (row - y0)) * scale
    c = ((x1 - x0) * (row - y0) - (column - x0) * (y1 - y0)) * scale
    return torch.stack((1.0 - b - c, b, c), dim=1)


def _ordered(depth: Tensor) -> Tensor:
    """float32 -> int64 that compares like it."""
    bits = depth.view(torch.int32).long()
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _unordered(order: Tensor) -> Tensor:
    """The inverse of ``_ordered``."""
    bits = torch.where(order < 0, order ^ 0x7FFFFFFF, order)
    return bits.to(torch.int32).view(torch.float32)
