"""Gather one picture's colours into the texels that it sees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deployments.stage2.mesh.surface import Float32, Float64
from deployments.stage2.texture.compiled import compiled, in_bands
from deployments.stage2.texture.rasterizer import Raster
from deployments.stage2.texture.views import OFFICIAL_SIZE, View

FACING = 0.1  # texels turned further away than this cosine are left to other views
SHARPNESS = 3.0  # exponent of the cosine in the weight: 1..4 measure the same, more is worse
DEPTH_TOLERANCE = 0.006  # of the unit cube, about 1.5 voxels at 256
DEPTH_STEP = 0.02  # a jump in depth above this hides what lies behind
RIM = 1.5  # pixels along the silhouette that hold some background
RAMP = 4.0  # pixels at the official size over which a view fades in from its border
FACE_WEIGHT = 4.0  # the zoomed picture knows the face better than the front picture does


@dataclass(frozen=True)
class Texels:
    """The points of the surface that own a texel."""

    position: Float32  # (P, 3)
    normal: Float32  # (P, 3) unit


@dataclass(frozen=True)
class ColourSums:
    """Weighted colours so far; divide one by the other."""

    colour: Float32  # (P, 3) sum of weight times colour 0..255
    weight: Float32  # (P,)

    @staticmethod
    def empty(texels: int) -> ColourSums:
        """Nothing gathered yet."""
        return ColourSums(np.zeros((texels, 3), np.float32), np.zeros(texels, np.float32))


def without_rim(picture: NDArray[np.uint8], foreground: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The picture with the colours inside its silhouette carried outward over the rim, (H, H, 3).

    Pixels on the silhouette are mixed with the background; read as they are, they leave pale specks
    wherever a surface is only seen edge on. Parts thinner than twice the rim stay as they are.
    """
    inside = ndimage.distance_transform_edt(foreground) > RIM
    distance, nearest = ndimage.distance_transform_edt(~inside, return_indices=True)
    replaced = (distance > 0) & (distance < 2 * RIM)
    result = picture.copy()
    result[replaced] = picture[tuple(nearest[:, replaced])]
    return result


def confidence(
    view: View, raster: Raster, foreground: NDArray[np.bool_], shift: Float64
) -> Float32:
    """How far each pixel of the mesh's view lies from any border, 0 at it to 1 inside, (H, H).

    Borders are the picture's silhouette (moved back by the shift), jumps of the mesh's own depth,
    and, for the face picture, the frame.
    """
    size = foreground.shape[0]
    ramp = max(1.0, RAMP * size / OFFICIAL_SIZE) * view.zoom
    column, row = (round(float(value)) for value in shift)
    known = np.zeros_like(foreground)
    known[_overlap(size, -row), _overlap(size, -column)] = foreground[
        _overlap(size, row), _overlap(size, column)
    ]
    depth = np.where(raster.covered, raster.depth, 1e3)
    for axis in (0, 1):
        jump = np.abs(np.diff(depth, axis=axis)) > DEPTH_STEP
        np.moveaxis(known, axis, 0)[1:] &= ~np.moveaxis(jump, axis, 0)
        np.moveaxis(known, axis, 0)[:-1] &= ~np.moveaxis(jump, axis, 0)
    distance = ndimage.distance_transform_edt(known)
    if view.zoom > 1.0:
        inset = np.minimum(np.arange(size), np.arange(size)[::-1])
        distance = np.minimum(distance, inset[None, :] / 8.0)  # a wide fade into the front view
        distance = np.minimum(distance, np.arange(size)[::-1, None] / 8.0)
    return np.clip((distance - 0.5) / ramp, 0.0, 1.0).astype(np.float32)


def _overlap(size: int, offset: int) -> slice:
    return slice(max(0, offset), size + min(0, offset))


def gather(
    texels: Texels,
    view: View,
    picture: NDArray[np.uint8],
    foreground: NDArray[np.bool_],
    raster: Raster,
    shift: Float64,
    sums: ColourSums,
) -> None:
    """Add what one picture shows to the texels it sees.

    The weight of a texel is (n.v)^3, times the confidence of its pixel, times 4 for the face.

    Args:
        picture: (H, H, 3), stored orientation.
        foreground: (H, H) where the picture shows the subject; the background is never read.
        raster: the mesh drawn in this view at the same size.
        shift: (column, row) from projected to picture position.
    """
    size = picture.shape[0]
    clean = without_rim(picture, foreground)
    trust = confidence(view, raster, foreground, shift)
    depth = np.where(raster.covered, raster.depth, np.float32(-np.inf))
    tolerance = max(DEPTH_TOLERANCE, 1.5 / (size * view.zoom))
    frame = np.array(
        [view.column_axis, *view.toward_camera[:2], view.zoom * size, 0.5 / view.zoom, *shift]
    )
    weight = FACE_WEIGHT if view.zoom > 1.0 else 1.0
    in_bands(
        len(texels.position),
        lambda start, stop: _gather(
            texels.position,
            texels.normal,
            clean,
            trust,
            depth,
            frame,
            tolerance,
            weight,
            start,
            stop,
            sums.colour,
            sums.weight,
        ),
    )


@compiled
def _gather(
    position: Float32,
    normal: Float32,
    picture: NDArray[np.uint8],
    trust: Float32,
    depth: Float32,
    frame: Float64,
    tolerance: float,
    view_weight: float,
    start: int,
    stop: int,
    colour_sum: Float32,
    weight_sum: Float32,
) -> None:
    axis = int(frame[0])
    toward_x, toward_y, scale, left, shift_x, shift_y = frame[1:]
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
