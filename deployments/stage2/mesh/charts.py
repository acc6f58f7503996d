"""Charts: connected parts of the surface that one direction sees well."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deployments.stage2.compiled import compiled
from deployments.stage2.mesh.surface import Float64, Int32, Mesh

# The directions that charts are seen from: the pictures', above and below.
DIRECTIONS: Float64 = np.array(
    [(0, -1, 0), (1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, 0, 1), (0, 0, -1)], np.float64
)
SWEEPS = 8
# How much worse, as a cosine, a face may be seen for each neighbour that it stays together with.
TOGETHER = 0.15
LEAST_COSINE = 0.35  # a face that is turned away further would lose too many texels
SMALL = 3e-4  # share of the surface below which a chart joins a neighbour,
LEAST_COSINE_SMALL = 0.15  # even if it is turned away so far
JOINING_ROUNDS = 3


def face_charts(mesh: Mesh, neighbour: Int32, zone: NDArray[np.bool_]) -> tuple[Int32, Int32]:
    """The chart of each face, (F,), and the direction of each chart, (number of charts,).

    Args:
        mesh: the surface.
        neighbour: (F, 3) the face across each edge or -1.
        zone: (F,) charts do not extend across its border.
    """
    normal = mesh.face_normals()
    area = np.linalg.norm(normal, axis=1)
    normal /= np.maximum(area, 1e-30)[:, None]
    smooth = mesh.vertex_normals()[mesh.faces].mean(axis=1)
    label = np.argmax(smooth @ DIRECTIONS.T, axis=1).astype(np.int32)
    _settle(normal, smooth, DIRECTIONS, neighbour, zone, label)
    for _ in range(JOINING_ROUNDS):
        chart, count = components(2 * label + zone, neighbour)
        small = np.bincount(chart, area, count) < SMALL * area.sum()
        if not small.any():
            break
        order = np.argsort(chart, kind="stable").astype(np.int32)
        start = np.searchsorted(chart[order], np.arange(count + 1))
        _join(normal, DIRECTIONS, neighbour, zone, order, start, small, label)
    chart, count = components(2 * label + zone, neighbour)
    direction = np.empty(count, np.int32)
    direction[chart] = label
    return chart, direction


def components(label: Int32, neighbour: Int32) -> tuple[Int32, int]:
    """Number the connected parts of equal labels, in the order of their first face."""
    part = np.full(len(label), -1, np.int32)
    stack = np.empty(len(label), np.int32)
    _flood(np.ascontiguousarray(label, np.int32), neighbour, part, stack)
    return part, int(part.max()) + 1


@compiled
def _settle(
    normal: Float64,
    smooth: Float64,
    directions: Float64,
    neighbour: Int32,
    zone: NDArray[np.bool_],
    label: Int32,
) -> None:
    """Faces take the direction that sees them well and that their neighbours have."""
    votes = np.empty(len(directions))
    for _ in range(SWEEPS):
        for f in range(len(label)):
            votes[:] = 0.0
            for k in range(3):
                g = neighbour[f, k]
                if g >= 0 and zone[g] == zone[f]:
                    votes[label[g]] += TOGETHER
            best = -np.inf
            for d in range(len(directions)):
                cosine = 0.0
                value = votes[d]
                for axis in range(3):
                    cosine += normal[f, axis] * directions[d, axis]
                    value += smooth[f, axis] * directions[d, axis]
                if cosine < LEAST_COSINE:
                    value -= 10.0 * (1.0 - cosine)
                if value > best:
                    best = value
                    label[f] = d


@compiled
def _flood(label: Int32, neighbour: Int32, part: Int32, stack: Int32) -> None:
    parts = 0
    for first in range(len(label)):
        if part[first] >= 0:
            continue
        part[first] = parts
        stack[0] = first
        waiting = 1
        while waiting > 0:
            waiting -= 1
            f = stack[waiting]
            for k in range(3):
                g = neighbour[f, k]
                if g >= 0 and part[g] < 0 and label[g] == label[f]:
                    part[g] = parts
                    stack[waiting] = g
                    waiting += 1
        parts += 1


@compiled
def _join(
    normal: Float64,
    directions: Float64,
    neighbour: Int32,
    zone: NDArray[np.bool_],
    order: Int32,
    start: NDArray[np.int64],
    small: NDArray[np.bool_],
    label: Int32,
) -> None:
    """Give small charts the direction that most of their border has, if it sees all of them."""
    votes = np.empty(len(directions))
    for chart in range(len(small)):
        if not small[chart]:
            continue
        own = label[order[start[chart]]]
        votes[:] = 0.0
        for i in range(start[chart], start[chart + 1]):
            f = order[i]
            for k in range(3):
                g = neighbour[f, k]
                if g >= 0 and zone[g] == zone[f] and label[g] != own:
                    votes[label[g]] += 1.0
            for d in range(len(directions)):
                cosine = 0.0
                for axis in range(3):
                    cosine += normal[f, axis] * directions[d, axis]
                if cosine < LEAST_COSINE_SMALL:
                    votes[d] = -np.inf
        best = np.argmax(votes)
        if votes[best] > 0.0:
            for i in range(start[chart], start[chart + 1]):
                label[order[i]] = best
