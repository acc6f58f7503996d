"""Sums over the voxels around each corner, by counting through the box around the subject.

A sort of all eight corners of a million voxels is what a GPU likes; on a CPU one number per corner
of the box is a tenth of its time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deployments.stage2.compiled import compiled
from deployments.stage2.mesh.dual_tables import CORNERS
from deployments.stage2.mesh.surface import Float32

Int64 = NDArray[np.int64]


def corner_sums(
    coords: Int64, features: Float32, columns: Int64, lowered: Float32
) -> tuple[Int64, Int64, Float32]:
    """Add up what voxels say, in their order.

    Args:
        coords: (N, 3) the voxels.
        features: (N, channels).
        columns: (8, K) which channels speak of which corner (CORNERS).
        lowered: (K,) taken off each value before it is added.

    Returns the corners in ascending order (C, 3), how many voxels each belongs to (C,), and the
    sums (C, K).
    """
    if len(coords) == 0:
        return coords, np.empty(0, np.int64), np.empty((0, columns.shape[1]), np.float32)
    low = coords.min(axis=0)
    shape = coords.max(axis=0) - low + 2
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    first = np.ascontiguousarray((coords - low) @ strides)
    row = np.zeros(shape.prod(), np.int32)
    corners = _number(first, CORNERS @ strides, row)
    found = np.empty(corners, np.int64)
    count = np.zeros(corners, np.int64)
    sums = np.zeros((corners, columns.shape[1]), np.float32)
    _add(first, CORNERS @ strides, features, columns, lowered, row, found, count, sums)
    places = np.stack((found // strides[0], found // strides[1] % shape[1], found % shape[2]), 1)
    return places + low, count, sums


@compiled
def _number(first: Int64, steps: Int64, row: NDArray[np.int32]) -> int:
    """Number the corners that occur, in the order of their place; the others keep 0."""
    for i in range(len(first)):
        for step in steps:
            row[first[i] + step] = 1
    corners = 0
    for place in range(len(row)):
        corners += row[place]
        row[place] *= corners
    return corners


@compiled
def _add(
    first: Int64,
    steps: Int64,
    features: Float32,
    columns: Int64,
    lowered: Float32,
    row: NDArray[np.int32],
    found: Int64,
    count: Int64,
    sums: Float32,
) -> None:
    for i in range(len(first)):
        for k in range(len(steps)):
            place = first[i] + steps[k]
            r = row[place] - 1
            found[r] = place
            count[r] += 1
            for c in range(len(lowered)):
                sums[r, c] += features[i, columns[k, c]] - lowered[c]
