"""Gather one picture's colours into the texels that it sees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deployments.contracts import UInt8
from deployments.stage2.compiled import compiled, in_bands
from deployments.stage2.mesh.surface import Float32
from deployments.stage2.texture.views import View

FACING = 0.1  # texels turned further away than this cosine are left to other views
SHARPNESS = 3  # exponent of the cosine in the weight: 1..4 measure the same, more is worse
DEPTH_TOLERANCE = 0.006  # of the unit cube, about 1.5 voxels at 256
FACE_WEIGHT = 4.0  # the zoomed picture knows the face better than the front picture does


@dataclass(frozen=True)
class Texels:
    """The points of the surface that own a texel, or some of them."""

    position: Tensor  # (P, 3) float32
    normal: Tensor  # (P, 3) float32, unit

    def __getitem__(self, rows: Tensor) -> Texels:
        return Texels(self.position[rows], self.normal[rows])


@dataclass(frozen=True)
class ColourSums:
    """Weighted colours so far; divide one by the other."""

    colour: Tensor  # (P, 3) float32, sum of weight times colour 0..255
    weight: Tensor  # (P,) float32

    @staticmethod
    def empty(texels: int, device: torch.device) -> ColourSums:
        """Nothing gathered yet."""
        return ColourSums(torch.zeros(texels, 3, device=device), torch.zeros(texels, device=device))


@dataclass(frozen=True)
class Sight:
    """One picture and what decides which of its pixels a texel may take."""

    view: View
    picture: Tensor  # (H, H, 3) uint8, stored orientation
    trust: Tensor  # (H, H) float32, 0 where it must not be read to 1
    depth: Tensor  # (H, H) float32, the mesh drawn in this view, -inf beside it
    shift: tuple[float, float]  # (column, row) from projected to picture position

    @property
    def scale(self) -> float:
        """Pixels in a length of 1."""
        return self.view.zoom * self.depth.shape[0]

    @property
    def tolerance(self) -> float:
        """How far behind the drawn mesh a texel still counts as seen."""
        return max(DEPTH_TOLERANCE, 1.5 / self.scale)

    @property
    def weight(self) -> float:
        """Of this picture among the others."""
        return FACE_WEIGHT if self.view.zoom > 1.0 else 1.0


def gather(texels: Texels, sight: Sight, sums: ColourSums) -> None:
    """Add what one picture shows to the texels it sees.

    The weight of a texel is (n.v)^3, times the trust in its pixel, times that of the picture.
    """
    if texels.position.device.type != "cpu":
        from deployments.stage2.texture.device.gather import gather as gather_on_device

        gather_on_device(texels.position, texels.normal, sight, sums.colour, sums.weight)
        return
    view = sight.view
    frame = (view.column_axis, *view.toward_camera[:2], sight.scale, 0.5 / view.zoom, *sight.shift)
    position, normal, picture, trust, depth, colour, weight = (
        part.numpy()
        for part in (
            texels.position,
            texels.normal,
            sight.picture,
            sight.trust,
            sight.depth,
            sums.colour,
            sums.weight,
        )
    )
    in_bands(
        len(position),
        lambda start, stop: _gather(
            position,
            normal,
            picture,
            trust,
            depth,
            frame,
            sight.tolerance,
            sight.weight,
            start,
            stop,
            colour,
            weight,
        ),
    )


@compiled
def _gather(
    position: Float32,
    normal: Float32,
    picture: UInt8,
    trust: Float32,
    depth: Float32,
    frame: tuple[int, float, float, float, float, float, float],
    tolerance: float,
    view_weight: float,
    start: int,
    stop: int,
    colour_sum: Float32,
    weight_sum: Float32,
) -> None:
    axis, toward_x, toward_y, scale, left, shift_x, shift_y = frame
    height, width = depth.shape
    for i in range(start, stop):
        cosine = normal[i, 0] * toward_x + normal[i, 1] * toward_y
        if cosine < FACING:
            continue
        x = (position[i, axis] + left) * scale - 0.5
        y = (0.5 - position[i, 2]) * scale - 0.5
        if x < 1 or y < 1 or x >= width - 2 or y >= height - 2:
            continue
        column, row = math.floor(x), math.floor(y)
        # Visible if not behind the farthest of the four surrounding pixels of the mesh.
        farthest = max(
            depth[row, column],
            depth[row, column + 1],
            depth[row + 1, column],
            depth[row + 1, column + 1],
        )
        own = -(position[i, 0] * toward_x + position[i, 1] * toward_y)
        if own > farthest + tolerance / max(cosine, 0.2):
            continue
        u, v = x - column, y - row
        certain = (
            trust[row, column] * (1 - u) * (1 - v)
            + trust[row, column + 1] * u * (1 - v)
            + trust[row + 1, column] * (1 - u) * v
            + trust[row + 1, column + 1] * u * v
        )
        if certain <= 0.0:
            continue
        x += shift_x
        y += shift_y
        if x < 0 or y < 0 or x >= width - 1 or y >= height - 1:
            continue
        column, row = math.floor(x), math.floor(y)
        u, v = x - column, y - row
        red = green = blue = 0.0
        for b in range(2):
            for a in range(2):
                k = (u if a else 1 - u) * (v if b else 1 - v)
                red += k * picture[row + b, column + a, 0]
                green += k * picture[row + b, column + a, 1]
                blue += k * picture[row + b, column + a, 2]
        weight = cosine**SHARPNESS * certain * view_weight
        colour_sum[i, 0] += weight * red
        colour_sum[i, 1] += weight * green
        colour_sum[i, 2] += weight * blue
        weight_sum[i] += weight
