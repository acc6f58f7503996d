"""A z-buffer: which triangle covers each pixel, how deep, and where inside the triangle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployments.stage2.compiled import compiled, in_bands
from deployments.stage2.mesh.surface import Float32, Float64, Int32


@dataclass(frozen=True)
class Raster:
    """One value per pixel of a picture of H rows and W columns."""

    face: Int32  # (H, W) the nearest triangle, -1 where there is none
    depth: Float32  # (H, W) its depth, infinite where there is none
    second: Float32  # (H, W) weight of the triangle's second corner
    third: Float32  # (H, W) weight of its third corner

    @property
    def covered(self) -> NDArray[np.bool_]:
        """(H, W) pixels with a triangle."""
        return self.face >= 0


def rasterize(
    x: Float64, y: Float64, depth: Float64, faces: Int32, shape: tuple[int, int]
) -> Raster:
    """Draw triangles; the smaller depth wins.

    Args:
        x, y: (V,) column and row of every vertex, where pixel (r, c) has its centre at (c, r).
        depth: (V,) grows away from the camera.
        faces: (F, 3) vertex numbers; both windings are drawn.
        shape: H, W.
    """
    raster = Raster(
        np.full(shape, -1, np.int32),
        np.full(shape, np.inf, np.float32),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.float32),
    )
    points = np.ascontiguousarray(np.stack((x, y, depth), axis=1), np.float64)
    triangles = np.ascontiguousarray(faces, np.int32)
    in_bands(
        shape[0],
        lambda start, stop: _draw(
            points, triangles, start, stop, raster.face, raster.depth, raster.second, raster.third
        ),
    )
    return raster


@compiled
def _draw(
    points: Float64,
    faces: Int32,
    first_row: int,
    last_row: int,
    face: Int32,
    depth: Float32,
    second: Float32,
    third: Float32,
) -> None:
    width = face.shape[1]
    for f in range(faces.shape[0]):
        x0, y0, z0 = points[faces[f, 0]]
        x1, y1, z1 = points[faces[f, 1]]
        x2, y2, z2 = points[faces[f, 2]]
        top = max(first_row, math.ceil(min(y0, y1, y2)))
        bottom = min(last_row - 1, math.floor(max(y0, y1, y2)))
        left = max(0, math.ceil(min(x0, x1, x2)))
        right = min(width - 1, math.floor(max(x0, x1, x2)))
        doubled_area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if top > bottom or left > right or doubled_area == 0.0:
            continue
        scale = 1.0 / doubled_area
        for row in range(top, bottom + 1):
            for column in range(left, right + 1):
                b = ((column - x0) * (y2 - y0) - (x2 - x0) * (row - y0)) * scale
                c = ((x1 - x0) * (row - y0) - (column - x0) * (y1 - y0)) * scale
                a = 1.0 - b - c
                if a < -1e-7 or b < -1e-7 or c < -1e-7:
                    continue
                z = a * z0 + b * z1 + c * z2
                if z < depth[row, column]:
                    depth[row, column] = z
                    face[row, column] = f
                    second[row, column] = b
                    third[row, column] = c


def interpolate(raster: Raster, faces: Int32, values: Float32) -> Float32:
    """Vertex values at every covered pixel, in row order, (number of covered pixels, channels)."""
    at = np.flatnonzero(raster.covered)
    result = np.empty((len(at), values.shape[1]), np.float32)
    face, second, third = raster.face.ravel(), raster.second.ravel(), raster.third.ravel()
    table = np.ascontiguousarray(values, np.float32)
    in_bands(
        len(at),
        lambda start, stop: _blend(at, face, second, third, faces, table, start, stop, result),
    )
    return result


@compiled
def _blend(
    at: NDArray[np.int64],
    face: Int32,
    second: Float32,
    third: Float32,
    faces: Int32,
    values: Float32,
    start: int,
    stop: int,
    result: Float32,
) -> None:
    for i in range(start, stop):
        pixel = at[i]
        f, b, c = face[pixel], second[pixel], third[pixel]
        for channel in range(values.shape[1]):
            result[i, channel] = (
                values[faces[f, 0], channel] * (1.0 - b - c)
                + values[faces[f, 1], channel] * b
                + values[faces[f, 2], channel] * c
            )
