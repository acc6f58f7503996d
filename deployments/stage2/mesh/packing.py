"""Rectangles into a square, as large as they fit: a skyline, filled from the bottom."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from deployments.stage2.compiled import compiled
from deployments.stage2.mesh.surface import Float64

HALVINGS = 10  # of the interval in which the scale lies: to 0.1 % of it


def pack(size: Float64, gutter: float) -> tuple[float, Float64, NDArray[np.bool_]]:
    """Scale rectangles by one number and put them into the unit square.

    Args:
        size: (N, 2) width and height, in any unit.
        gutter: least distance between two of them and to the border, in units of the square. If
            not even points can keep it, it is halved until they do.

    Returns the scale, the corner of least coordinates of each (N, 2), and which of them are turned
    by a right angle (N,).
    """
    order = np.lexsort((size.min(axis=1), size.max(axis=1)))[::-1]
    ordered = np.ascontiguousarray(size[order])
    corner, turned = np.empty_like(ordered), np.empty(len(ordered), bool)

    def fits(scale: float) -> bool:
        return bool(_place(ordered * scale + gutter, 1.0 - gutter, corner, turned))

    while not fits(0.0):
        gutter /= 2
    low, high = 0.0, math.sqrt(1.0 / max(float(size.prod(axis=1).sum()), 1e-30))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    fits(low)
    back = np.argsort(order)
    return low, corner[back] + gutter, turned[back]


@compiled
def _place(size: Float64, side: float, corner: Float64, turned: NDArray[np.bool_]) -> bool:
    """Put each rectangle where its top is lowest; False as soon as one does not fit."""
    left = np.empty(len(size) + 2)  # the skyline: steps from left to right and their heights
    height = np.empty(len(size) + 2)
    left[0], height[0], left[1] = 0.0, 0.0, side
    steps = 1
    for n in range(len(size)):
        lowest, at, on, turn = np.inf, -1, 0.0, False
        for way in range(2):
            across, up = size[n, way], size[n, 1 - way]
            for i in range(steps):
                if left[i] + across > side or height[i] + up >= lowest:
                    continue
                floor, j = height[i], i + 1
                while j < steps and left[j] < left[i] + across:
                    floor = max(floor, height[j])
                    j += 1
                if floor + up < lowest:
                    lowest, at, on, turn = floor + up, i, floor, way == 1
        if lowest > side:
            return False
        corner[n, 0], corner[n, 1], turned[n] = left[at], on, turn
        right = left[at] + (size[n, 1] if turn else size[n, 0])
        # The steps below it are gone; the last one may stick out to the right.
        last = at
        while last + 1 < steps and left[last + 1] <= right:
            last += 1
        remains = right < left[last + 1]
        rest = height[last]
        shift = at + 1 + remains - (last + 1)
        if shift > 0:
            for i in range(steps, last, -1):
                left[i + shift], height[i + shift] = left[i], height[i]
        elif shift < 0:
            for i in range(last + 1, steps + 1):
                left[i + shift], height[i + shift] = left[i], height[i]
        steps += shift
        height[at] = lowest
        if remains:
            left[at + 1], height[at + 1] = right, rest
    return True
