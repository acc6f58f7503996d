"""How the five stored pictures lie on the subject (model.md 3).

All pictures are orthographic and aligned with the volume: rows run down, columns along +x or +y.
Pictures 2 and 3 are therefore mirror images of what a camera there would see. Nothing is ever
flipped here: points are projected onto the stored pictures as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployments.stage2.mesh.surface import Float64, Mesh
from deployments.stage2.texture.rasterizer import Raster, rasterize

FOREGROUND_BELOW = 230  # of 255: any channel of the normal map below this shows the subject
OFFICIAL_SIZE = 768  # widths given in pixels below and elsewhere hold at this size and scale along


@dataclass(frozen=True)
class View:
    """One stored picture: column axis, direction towards its camera, enlargement."""

    name: str
    column_axis: int  # 0: x, 1: y
    toward_camera: tuple[float, float, float]
    zoom: float = 1.0  # the face picture shows the top centre third

    def project(self, points: Float64, size: int) -> tuple[Float64, Float64, Float64]:
        """Column, row and depth of points (N, 3) in a picture of `size` pixels a side."""
        scale = self.zoom * size
        column = (points[:, self.column_axis] + 0.5 / self.zoom) * scale - 0.5
        row = (0.5 - points[:, 2]) * scale - 0.5
        return column, row, -(points @ np.array(self.toward_camera))

    def draw(self, mesh: Mesh, size: int) -> Raster:
        """The mesh as this picture would show it."""
        return rasterize(
            *self.project(mesh.vertices.astype(np.float64), size), mesh.faces, (size, size)
        )


VIEWS = (
    View("front", 0, (0.0, -1.0, 0.0)),
    View("right", 1, (1.0, 0.0, 0.0)),
    View("back", 0, (0.0, 1.0, 0.0)),
    View("left", 1, (-1.0, 0.0, 0.0)),
    View("face", 0, (0.0, -1.0, 0.0), zoom=3.0),
)


def foreground(normal_picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a normal picture (..., H, W, 3) shows the subject, (..., H, W)."""
    red, green, blue = (normal_picture[..., channel] < FOREGROUND_BELOW for channel in range(3))
    return np.asarray(red | green | blue)
