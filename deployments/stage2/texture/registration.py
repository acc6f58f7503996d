"""Shift each picture onto the mesh before its colours are taken.

A view that is off by two pixels costs 10 dB on unseen sides, more than any choice of blending
(geometry.md 8). The shift is the one at which the blurred silhouettes of picture and mesh differ
least; all shifts are tried at once by a correlation in the Fourier domain, where the blur is a
factor.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from deployments.stage2.mesh.surface import Float64
from deployments.stage2.texture.views import OFFICIAL_SIZE

BLUR = 2.0  # pixels at the official size, like all lengths here
LARGEST_SHIFT = 6.0
SMALLEST_SHIFT = 0.3  # not worth moving a picture for


def register(silhouettes: Tensor, foregrounds: Tensor) -> Float64:
    """Shifts (5, 2) as (column, row) pixels: picture position = projected position + shift.

    Args:
        silhouettes: the mesh as seen in views 0..3, (4, H, H) bool.
        foregrounds: what the pictures 0..3 show, (4, H, H) bool.

    The face picture cuts the subject off, so it has no silhouette of its own: it moves with the
    front picture, three times as far in its own pixels.
    """
    shifts = best_shifts(silhouettes, foregrounds)
    return np.concatenate((shifts, 3.0 * shifts[:1]))


def best_shifts(silhouettes: Tensor, foregrounds: Tensor) -> Float64:
    """Shifts (B, 2) as (column, row) that move silhouettes (B, H, H) onto the pictures', or zero.

    Zero if either is empty, if the shift is too small to matter, or if it lies at the edge of the
    search, where the two simply do not show the same thing.
    """
    size = silhouettes.shape[-1]
    unit = size / OFFICIAL_SIZE
    reach = max(1, round(LARGEST_SHIFT * unit))
    sigma = max(BLUR * unit, 0.7)
    # Room for the search and for both blurs, so that nothing wraps around.
    padded = -(-(size + reach + 1 + math.ceil(8 * sigma)) // 32) * 32
    mesh, picture = (
        torch.fft.rfft2(mask.float(), s=(padded, padded)) for mask in (silhouettes, foregrounds)
    )
    correlation = torch.fft.irfft2(
        mesh.conj() * picture * _blur_twice(padded, sigma, mesh.device), s=(padded, padded)
    )
    around = torch.arange(-reach - 1, reach + 2, device=mesh.device) % padded
    windows = correlation[:, around][:, :, around].double().cpu().numpy()  # (B, row, column)
    empty = ~(silhouettes.flatten(1).any(1) & foregrounds.flatten(1).any(1)).cpu().numpy()
    shifts = np.array([_peak(window, reach) for window in windows])
    shifts[empty | (np.hypot(*shifts.T) < SMALLEST_SHIFT * unit)] = 0.0
    return shifts


def _blur_twice(size: int, sigma: float, device: torch.device) -> Tensor:
    """What two Gaussian blurs of ``sigma`` pixels do to each frequency, (size, size // 2 + 1)."""
    rows, columns = torch.fft.fftfreq(size, device=device), torch.fft.rfftfreq(size, device=device)
    squared = rows[:, None] ** 2 + columns**2
    return torch.exp(-((2 * math.pi * sigma) ** 2) * squared)


def _peak(window: Float64, reach: int) -> Float64:
    """Place (column, row) of the maximum relative to the middle, or zero if at the edge."""
    middle = window[1:-1, 1:-1]
    row, column = (int(place) + 1 for place in divmod(int(middle.argmax()), middle.shape[1]))
    if max(abs(row - 1 - reach), abs(column - 1 - reach)) == reach:
        return np.zeros(2)
    return np.array(
        [
            column - 1 - reach + _top(window[row, column - 1 : column + 2]),
            row - 1 - reach + _top(window[row - 1 : row + 2, column]),
        ]
    )


def _top(three: Float64) -> float:
    """Where the parabola through three equidistant values has its top, -0.5..0.5."""
    left, middle, right = (float(value) for value in three)
    curvature = left - 2.0 * middle + right
    return 0.0 if curvature >= 0.0 else float(np.clip(0.5 * (left - right) / curvature, -0.5, 0.5))
