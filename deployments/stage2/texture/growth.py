"""Colour beyond the charts, so that bilinear lookups and mip maps do not bleed at seams."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deployments.stage2.compiled import compiled
from deployments.stage2.mesh.surface import Float32

UNKNOWN = 255


def grow(texture: Tensor, known: Tensor, texels: int) -> Tensor:
    """Extend charts outward by `texels`, each step the mean of known neighbours.

    The rest takes the mean colour of the charts. `texture` is (T, T, 3) float32 and may be changed,
    `known` (T, T). Returns (T, T, 3).
    """
    if texture.device.type != "cpu":
        from deployments.stage2.texture.device.growth import grow as grow_on_device

        return grow_on_device(texture, known, texels)
    values, step = texture.numpy(), np.where(known.numpy(), 0, UNKNOWN).astype(np.uint8)
    edge = np.empty((values.shape[0] * values.shape[1], 2), np.int32)
    _fill(values, step)
    _grow(values, step, texels, edge)
    return texture


@compiled
def _fill(texture: Float32, step: NDArray[np.uint8]) -> None:
    """Give the mean colour of the known texels to all others."""
    height, width = step.shape
    count = 0
    red = green = blue = 0.0
    for row in range(height):
        for column in range(width):
            if step[row, column] == 0:
                count += 1
                red += texture[row, column, 0]
                green += texture[row, column, 1]
                blue += texture[row, column, 2]
    for row in range(height):
        for column in range(width):
            if step[row, column] != 0:
                texture[row, column, 0] = red / count
                texture[row, column, 1] = green / count
                texture[row, column, 2] = blue / count


@compiled
def _grow(texture: Float32, step: NDArray[np.uint8], texels: int, edge: NDArray[np.int32]) -> None:
    """Ring after ring; `edge` has room for the texels of all rings."""
    height, width = step.shape
    reached = 0
    for row in range(height):
        for column in range(width):
            if step[row, column] != UNKNOWN:
                continue
            top, bottom = max(row - 1, 0), min(row + 2, height)
            left, right = max(column - 1, 0), min(column + 2, width)
            if (step[top:bottom, left:right] == 0).any():
                edge[reached, 0], edge[reached, 1] = row, column
                reached += 1
                step[row, column] = 1
    first = 0
    for number in range(1, texels + 1):
        last = reached
        for i in range(first, last):
            row, column = edge[i]
            count = 0
            red = green = blue = 0.0
            for y in range(max(row - 1, 0), min(row + 2, height)):
                for x in range(max(column - 1, 0), min(column + 2, width)):
                    if step[y, x] < number:
                        count += 1
                        red += texture[y, x, 0]
                        green += texture[y, x, 1]
                        blue += texture[y, x, 2]
                    elif step[y, x] == UNKNOWN and number < texels:
                        edge[reached, 0], edge[reached, 1] = y, x
                        reached += 1
                        step[y, x] = number + 1
            texture[row, column, 0] = red / count
            texture[row, column, 1] = green / count
            texture[row, column, 2] = blue / count
        first = last
