"""Colour beyond the charts, so that bilinear lookups and mip maps do not bleed at seams."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deployments.stage2.mesh.surface import Float32
from deployments.stage2.texture.compiled import compiled, in_bands

UNKNOWN = 255


def grow(texture: Float32, known: NDArray[np.bool_], texels: int) -> Float32:
    """Extend charts outward by `texels`, each step the mean of known neighbours, in place.

    The rest takes the mean colour of the charts. `texture` is (T, T, 3), `known` (T, T).
    """
    step = np.where(known, 0, UNKNOWN).astype(np.uint8)
    texture[~known] = texture[known].mean(axis=0)
    for number in range(1, texels + 1):
        in_bands(
            len(texture),
            lambda start, stop, number=number: _grow(  # type: ignore[misc]
                texture, step, number, start, stop
            ),
        )
    return texture


@compiled
def _grow(texture: Float32, step: NDArray[np.uint8], number: int, start: int, stop: int) -> None:
    height, width = step.shape
    for row in range(start, stop):
        for column in range(width):
            if step[row, column] != UNKNOWN:
                continue
            count = 0
            red = green = blue = 0.0
            for y in range(max(row - 1, 0), min(row + 2, height)):
                for x in range(max(column - 1, 0), min(column + 2, width)):
                    if step[y, x] < number:
                        count += 1
                        red += texture[y, x, 0]
                        green += texture[y, x, 1]
                        blue += texture[y, x, 2]
            if count:
                step[row, column] = number
                texture[row, column, 0] = red / count
                texture[row, column, 1] = green / count
                texture[row, column, 2] = blue / count
