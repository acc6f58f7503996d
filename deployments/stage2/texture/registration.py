"""Shift each picture onto the mesh before its colours are taken.

A view that is off by two pixels costs 10 dB on unseen sides, more than any choice of blending
(geometry.md 8). The shift is the one at which the blurred silhouettes of picture and mesh differ
least; all shifts are tried at once by a correlation in the Fourier domain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from deployments.stage2.mesh.surface import Float32, Float64
from deployments.stage2.texture.views import OFFICIAL_SIZE

BLUR = 2.0  # pixels at the official size, like all lengths here
LARGEST_SHIFT = 6.0
SMALLEST_SHIFT = 0.3  # not worth moving a picture for


def register(
    silhouettes: Sequence[NDArray[np.bool_]], foregrounds: Sequence[NDArray[np.bool_]]
) -> Float64:
    """Shifts (5, 2) as (column, row) pixels: picture position = projected position + shift.

    Args:
        silhouettes: the mesh as seen in views 0..3, each (H, H).
        foregrounds: what the pictures 0..3 show, each (H, H).

    The face picture cuts the subject off, so it has no silhouette of its own: it moves with the
    front picture, three times as far in its own pixels.
    """
    shifts = [
        best_shift(mesh, picture) for mesh, picture in zip(silhouettes, foregrounds, strict=True)
    ]
    return np.array([*shifts, 3.0 * shifts[0]])


def best_shift(silhouette: NDArray[np.bool_], foreground: NDArray[np.bool_]) -> Float64:
    """Shift (column, row) that moves the mesh's silhouette onto the picture's, or zero.

    Zero if either is empty, if the shift is too small to matter, or if it lies at the edge of the
    search, where the two simply do not show the same thing.
    """
    size = silhouette.shape[0]
    unit = size / OFFICIAL_SIZE
    reach = max(1, round(LARGEST_SHIFT * unit))
    if not silhouette.any() or not foreground.any():
        return np.zeros(2)
    mesh, picture = (_blurred(mask, BLUR * unit, reach) for mask in (silhouette, foreground))
    correlation = fft.irfft2(
        np.conj(fft.rfft2(mesh, workers=2)) * fft.rfft2(picture, workers=2), s=mesh.shape, workers=2
    )
    around = np.arange(-reach - 1, reach + 2)
    window = correlation[np.ix_(around, around)]  # (row, column); negative numbers wrap around
    row, column = np.unravel_index(np.argmax(window[1:-1, 1:-1]), (2 * reach + 1,) * 2)
    at_the_edge = max(abs(int(row) - reach), abs(int(column) - reach)) == reach
    row, column = row + 1, column + 1
    shift = np.array(
        [
            around[column] + _peak(window[row, column - 1 : column + 2]),
            around[row] + _peak(window[row - 1 : row + 2, column]),
        ]
    )
    too_small = float(np.hypot(*shift)) < SMALLEST_SHIFT * unit
    return np.zeros(2) if at_the_edge or too_small else shift


def _blurred(mask: NDArray[np.bool_], sigma: float, margin: int) -> Float32:
    """Soft silhouette with room for the search, so that nothing wraps around."""
    padded = np.pad(mask.astype(np.float32), margin + 1)
    blurred: Float32 = ndimage.gaussian_filter(padded, max(sigma, 0.7), mode="constant")
    return blurred


def _peak(three: Float32) -> float:
    """Where the parabola through three equidistant values has its top, -0.5..0.5."""
    left, middle, right = (float(value) for value in three)
    curvature = left - 2.0 * middle + right
    return 0.0 if curvature >= 0.0 else float(np.clip(0.5 * (left - right) / curvature, -0.5, 0.5))
