"""Large charts that leave much of their rectangle empty are cut: a leg by itself packs well."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deployments.stage2.compiled import compiled
from deployments.stage2.mesh.charts import components
from deployments.stage2.mesh.surface import Float64, Int32

LARGE = 0.01  # share of all charts' area that a rectangle has at least to be cut
FULL = 0.75  # share of a rectangle that its chart fills at least to be left alone
GAIN = 0.12  # share of the rectangle that a cut has to save
ROUNDS = 4
PLACES = 9  # where a cut is tried, along each side
TURNS = 8  # angles within a right one, of which the smallest rectangle counts


def cut_sparse(flat: Float64, neighbour: Int32, chart: Int32, margin: float) -> Int32:
    """Cut straight through charts where that makes the sum of their rectangles smaller.

    Args:
        flat: (F, 3, 2) corners of the faces in the plane of their charts.
        neighbour: (F, 3) the face across each edge or -1.
        chart: (F,) chart of each face.
        margin: what a rectangle takes beyond its chart, across and along.

    Returns the chart of each face (F,).
    """
    edges = flat[:, 1:] - flat[:, :1]
    area = np.abs(edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]) / 2
    center = flat.mean(axis=1)
    angles = np.arange(TURNS) * (np.pi / 2 / TURNS)
    turns = np.stack((np.cos(angles), np.sin(angles)), axis=1)
    for _ in range(ROUNDS):
        count = int(chart.max()) + 1
        order = np.argsort(chart, kind="stable")
        start = np.searchsorted(chart[order], np.arange(count + 1))
        beyond = np.zeros(len(chart), bool)
        filled = np.asarray(np.bincount(chart, area, count), np.float64)
        _cut(center, turns, neighbour, chart, order, start, filled, margin, beyond)
        if not beyond.any():
            break
        chart, _ = components(2 * chart + beyond, neighbour)
    return chart


@compiled
def _cut(
    center: Float64,
    turns: Float64,
    neighbour: Int32,
    chart: Int32,
    order: NDArray[np.int64],
    start: NDArray[np.int64],
    filled: Float64,
    margin: float,
    beyond: NDArray[np.bool_],
) -> None:
    """Mark the faces beyond the best cut of each chart, if there is a good one."""
    stamp = np.zeros(len(chart), np.int32)
    stack = np.empty(len(chart), np.int64)
    side = np.zeros(len(chart), np.bool_)
    box = np.empty((len(turns), 4))
    total = filled.sum()
    tries = 0
    for n in range(len(filled)):
        faces = order[start[n] : start[n + 1]]
        if len(faces) < 8 or filled[n] < LARGE * FULL * total / 4:
            continue
        best, angle = np.inf, 0
        low_x = low_y = wide = high = 0.0
        for t in range(len(turns)):
            left = bottom = np.inf
            right = top = -np.inf
            for f in faces:
                x = turns[t, 0] * center[f, 0] - turns[t, 1] * center[f, 1]
                y = turns[t, 1] * center[f, 0] + turns[t, 0] * center[f, 1]
                left, right = min(left, x), max(right, x)
                bottom, top = min(bottom, y), max(top, y)
            size = (right - left + margin) * (top - bottom + margin)
            if size < best:
                best, angle = size, t
                low_x, low_y, wide, high = left, bottom, right - left, top - bottom
        if best < LARGE * total or filled[n] > FULL * best:
            continue
        least, axis_of_least, at_least = (1.0 - GAIN) * best, -1, 0.0
        for axis in range(2):
            for place in range(1, PLACES + 1):
                part = place / (PLACES + 1)
                at = low_y + part * high if axis else low_x + part * wide
                for f in faces:
                    x = turns[angle, 0] * center[f, 0] - turns[angle, 1] * center[f, 1]
                    y = turns[angle, 1] * center[f, 0] + turns[angle, 0] * center[f, 1]
                    side[f] = (y if axis else x) > at
                tries += 1
                size = 0.0
                for first in faces:
                    if stamp[first] == tries:
                        continue
                    stamp[first] = tries
                    stack[0] = first
                    waiting = 1
                    box[:] = -np.inf
                    while waiting > 0:
                        waiting -= 1
                        f = stack[waiting]
                        for t in range(len(turns)):
                            x = turns[t, 0] * center[f, 0] - turns[t, 1] * center[f, 1]
                            y = turns[t, 1] * center[f, 0] + turns[t, 0] * center[f, 1]
                            box[t, 0] = max(box[t, 0], x)
                            box[t, 1] = max(box[t, 1], y)
                            box[t, 2] = max(box[t, 2], -x)
                            box[t, 3] = max(box[t, 3], -y)
                        for k in range(3):
                            g = neighbour[f, k]
                            if g < 0 or chart[g] != n or side[g] != side[f]:
                                continue
                            if stamp[g] != tries:
                                stamp[g] = tries
                                stack[waiting] = g
                                waiting += 1
                    smallest = np.inf
                    for t in range(len(turns)):
                        across = box[t, 0] + box[t, 2] + margin
                        along = box[t, 1] + box[t, 3] + margin
                        smallest = min(smallest, across * along)
                    size += smallest
                    if size >= least:
                        break
                if size < least:
                    least, axis_of_least, at_least = size, axis, at
        if axis_of_least >= 0:
            for f in faces:
                x = turns[angle, 0] * center[f, 0] - turns[angle, 1] * center[f, 1]
                y = turns[angle, 1] * center[f, 0] + turns[angle, 0] * center[f, 1]
                beyond[f] = (y if axis_of_least else x) > at_least
