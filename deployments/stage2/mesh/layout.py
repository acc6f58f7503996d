"""Charts laid flat, side by side in the unit square, no two and no part of one over another."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from deployments.stage2.compiled import compiled, in_bands
from deployments.stage2.mesh.charts import DIRECTIONS, components
from deployments.stage2.mesh.cuts import cut_sparse
from deployments.stage2.mesh.packing import pack
from deployments.stage2.mesh.surface import Float64, Int32

TURNS = 16  # angles within a right one, of which the smallest rectangle decides
INSIDE = 1e-6  # weight of each corner: pixels on an edge that two faces share belong to neither


def lay_out(
    corners: Float64,
    scale: Float64,
    neighbour: Int32,
    chart: Int32,
    direction: Int32,
    size: int,
    gutter: float,
) -> tuple[Float64, Int32]:
    """Place every chart; where one covers itself, its rear part becomes a chart of its own.

    Args:
        corners: (F, 3, 3) positions of the faces' corners.
        scale: (F,) how much larger than others a face is drawn, one value a chart.
        neighbour: (F, 3) the face across each edge or -1.
        chart: (F,) chart of each face.
        direction: (number of charts,) which of DIRECTIONS sees it.
        size: pixels a side of the texture: none is covered twice.
        gutter: least distance between charts, in pixels.

    Returns texture coordinates of the corners (F, 3, 2) and the chart of each face.
    """
    toward = DIRECTIONS[direction[chart]]  # (F, 3)
    flat = _projected(corners, direction[chart]) * scale[:, None, None]
    # A gutter, were three fifths of the square covered.
    margin = gutter / size * math.sqrt(_area(flat) / 0.6)
    chart = cut_sparse(flat, neighbour, chart, margin)
    front_first = np.argsort(-(corners.mean(axis=1) * toward).sum(axis=1), kind="stable")
    while True:
        places = _arranged(flat, chart, gutter / size)
        covered = _covered(places * size - 0.5, front_first, size)
        # Only within a chart: between charts there is the gutter.
        if not covered.any():
            return places, chart
        chart, _ = components(2 * chart + covered, neighbour)


def _projected(corners: Float64, direction: Int32) -> Float64:
    """Corners (F, 3, 3) as the direction of each face sees them, (F, 3, 2)."""
    toward = DIRECTIONS[direction]
    up = np.where(np.abs(toward[:, 2:]) > 0.5, [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]])
    right = np.cross(up, toward)
    axes = np.stack((right, np.cross(toward, right)), axis=2)  # (F, 3, 2)
    flat: Float64 = corners @ axes
    return flat


def _arranged(flat: Float64, chart: Int32, gutter: float) -> Float64:
    """Turn each chart so that its rectangle is small, and pack the rectangles."""
    box = np.full((int(chart.max()) + 1, TURNS, 4), -np.inf)
    angles = np.arange(TURNS) * (np.pi / 2 / TURNS)
    turns = np.stack((np.cos(angles), np.sin(angles)), axis=1)
    _measure(flat, chart, turns, box)
    extent = box[..., 2:] + box[..., :2]
    best = np.argmin(extent.prod(axis=2), axis=1)
    charts = np.arange(len(box))
    scale, corner, turned = pack(np.ascontiguousarray(extent[charts, best]), gutter)
    places = np.empty_like(flat)
    _move(flat, chart, turns[best], -box[charts, best, 2:], scale, corner, turned, places)
    return places


def _covered(pixels: Float64, order: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    """Faces (F,) that have a pixel in common with one that comes before them in the order."""
    taken = np.zeros((size, size), bool)
    covered = np.zeros(len(pixels), bool)
    in_bands(size, lambda start, stop: _draw(pixels, order, start, stop, taken, covered))
    return covered


def _area(flat: Float64) -> float:
    edges = flat[:, 1:] - flat[:, :1]
    return float(np.abs(np.linalg.det(edges)).sum()) / 2


@compiled
def _measure(flat: Float64, chart: Int32, turns: Float64, box: Float64) -> None:
    """Largest and negative smallest coordinates of each chart at each angle."""
    for f in range(len(chart)):
        for t in range(len(turns)):
            limits = box[chart[f], t]
            for k in range(3):
                x = turns[t, 0] * flat[f, k, 0] - turns[t, 1] * flat[f, k, 1]
                y = turns[t, 1] * flat[f, k, 0] + turns[t, 0] * flat[f, k, 1]
                limits[0] = max(limits[0], x)
                limits[1] = max(limits[1], y)
                limits[2] = max(limits[2], -x)
                limits[3] = max(limits[3], -y)


@compiled
def _move(
    flat: Float64,
    chart: Int32,
    turn: Float64,
    least: Float64,
    scale: float,
    corner: Float64,
    turned: NDArray[np.bool_],
    places: Float64,
) -> None:
    for f in range(len(chart)):
        n = chart[f]
        for k in range(3):
            x = turn[n, 0] * flat[f, k, 0] - turn[n, 1] * flat[f, k, 1] - least[n, 0]
            y = turn[n, 1] * flat[f, k, 0] + turn[n, 0] * flat[f, k, 1] - least[n, 1]
            places[f, k, 0] = corner[n, 0] + scale * (y if turned[n] else x)
            places[f, k, 1] = corner[n, 1] + scale * (x if turned[n] else y)


@compiled
def _draw(
    pixels: Float64,
    order: NDArray[np.int64],
    first_row: int,
    last_row: int,
    taken: NDArray[np.bool_],
    covered: NDArray[np.bool_],
) -> None:
    for f in order:
        x0, y0 = pixels[f, 0]
        x1, y1 = pixels[f, 1]
        x2, y2 = pixels[f, 2]
        top = max(first_row, math.ceil(min(y0, y1, y2)))
        bottom = min(last_row - 1, math.floor(max(y0, y1, y2)))
        left = max(0, math.ceil(min(x0, x1, x2)))
        right = min(taken.shape[1] - 1, math.floor(max(x0, x1, x2)))
        doubled_area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if top > bottom or left > right or doubled_area == 0.0:
            continue
        # Along a row the weight of each corner is linear: it bounds the columns from one side.
        scale = 1.0 / doubled_area
        slope_b, slope_c = (y2 - y0) * scale, -(y1 - y0) * scale
        slopes = (-slope_b - slope_c, slope_b, slope_c)
        for row in range(top, bottom + 1):
            at_b = (-x0 * (y2 - y0) - (x2 - x0) * (row - y0)) * scale
            at_c = ((x1 - x0) * (row - y0) + x0 * (y1 - y0)) * scale
            from_column, to_column = float(left), float(right)
            weights = (1.0 - at_b - at_c, at_b, at_c)
            for k in range(3):
                at, slope = weights[k], slopes[k]
                if slope > 0.0:
                    from_column = max(from_column, (INSIDE - at) / slope)
                elif slope < 0.0:
                    to_column = min(to_column, (INSIDE - at) / slope)
                elif at < INSIDE:
                    to_column = -1.0
            for column in range(math.ceil(from_column), math.floor(to_column) + 1):
                if taken[row, column]:
                    covered[f] = True
                taken[row, column] = True
