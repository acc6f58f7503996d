"""Which faces share an edge: one pass over the corners instead of a sort."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployments.stage2.compiled import compiled
from deployments.stage2.mesh.surface import Int32


@dataclass(frozen=True)
class Edges:
    """Edge k of a face runs from its corner k to the next one."""

    neighbour: Int32  # (F, 3) the face across each edge, -1 where there is not exactly one
    boundary: int  # edges used by one face
    crowded: int  # edges used by three faces or more
    flipped: int  # edges used by two faces that disagree about the outside


def find_edges(faces: Int32, vertices: int) -> Edges:
    """Pair the edges of triangles (F, 3) over `vertices` vertices."""
    faces = np.ascontiguousarray(faces, np.int32)
    neighbour = np.full(faces.shape, -1, np.int32)
    counts = np.zeros(3, np.int64)
    _pair(
        faces, np.zeros(vertices + 1, np.int32), np.empty(faces.size, np.int32), neighbour, counts
    )
    boundary, crowded, flipped = counts.tolist()
    return Edges(neighbour, boundary, crowded, flipped)


@compiled
def _pair(
    faces: Int32, stop: Int32, bucket: Int32, neighbour: Int32, counts: NDArray[np.int64]
) -> None:
    """Edges are put into the bucket of their smaller vertex, where few others lie."""
    for f in range(len(faces)):
        for k in range(3):
            stop[min(faces[f, k], faces[f, (k + 1) % 3]) + 1] += 1
    for v in range(1, len(stop)):
        stop[v] += stop[v - 1]
    for f in range(len(faces)):
        for k in range(3):
            v = min(faces[f, k], faces[f, (k + 1) % 3])
            bucket[stop[v]] = 3 * f + k
            stop[v] += 1
    start = 0
    for v in range(len(stop) - 1):
        for i in range(start, stop[v]):
            f, k = bucket[i] // 3, bucket[i] % 3
            far = max(faces[f, k], faces[f, (k + 1) % 3])
            users, first, other = 0, i, i
            for j in range(start, stop[v]):
                g, m = bucket[j] // 3, bucket[j] % 3
                if max(faces[g, m], faces[g, (m + 1) % 3]) == far:
                    users += 1
                    first = min(first, j)
                    if j != i:
                        other = j
            g, m = bucket[other] // 3, bucket[other] % 3
            if users == 2:
                neighbour[f, k] = g
            if first == i:
                counts[0] += users == 1
                counts[1] += users > 2
                counts[2] += users == 2 and faces[f, k] == faces[g, m]
        start = stop[v]
