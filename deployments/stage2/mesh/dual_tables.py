"""Which crossing edges of a cube share a dual vertex, for all 256 sign patterns.

FlexiCubes (Shen et al. 2023) follows dual marching cubes: the sign-changing edges of a cube fall
into up to four groups, and each group becomes one vertex of the mesh. Nothing is looked up from a
published table; everything follows from four rules (geometry.md 3, "Own version"), evaluated once.

Corner k of a cube lies at (k & 1, k >> 1 & 1, k >> 2 & 1). Bit k of a case is set where corner k is
inside (sdf < 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]

CORNERS: Int64 = np.array([(k & 1, k >> 1 & 1, k >> 2 & 1) for k in range(8)])

# The twelve edges, in the order that the weights of the network follow (model.md 15).
EDGES: Int64 = np.array(
    [(0, 1), (1, 5), (4, 5), (0, 4), (2, 3), (3, 7), (6, 7), (2, 6), (2, 0), (3, 1), (7, 5), (6, 4)]
)

# The six faces: outward direction and the four corners on it.
FACES: tuple[tuple[tuple[int, int, int], frozenset[int]], ...] = tuple(
    (
        (direction * (axis == 0), direction * (axis == 1), direction * (axis == 2)),
        frozenset(k for k in range(8) if (k >> axis & 1) == (direction > 0)),
    )
    for axis in range(3)
    for direction in (-1, 1)
)

MAX_GROUPS = 4
MAX_GROUP_EDGES = 7


@dataclass(frozen=True)
class DualTables:
    """The rules written out. Unused places hold -1."""

    groups: Int64  # (256, 4, 7) edge numbers of each dual vertex, ascending
    group_count: Int64  # (256,)
    group_of_edge: Int64  # (256, 12) the group that each crossing edge belongs to
    ambiguous_face: Int64  # (256, 3) direction of the one face that is ambiguous, zero if none
    ambiguous: NDArray[np.bool_]  # (256,)


def _groups_of(case: int) -> list[list[int]]:
    """Groups of crossing edges of one case, in output order."""
    inside = [bool(case >> k & 1) for k in range(8)]
    crossing = [e for e, (a, b) in enumerate(EDGES) if inside[a] != inside[b]]
    group = {edge: {edge} for edge in crossing}

    def link(first: int, second: int) -> None:
        merged = group[first] | group[second]
        for edge in merged:
            group[edge] = merged

    for _, corners in FACES:
        on_face = [e for e in crossing if set(EDGES[e]) <= corners]
        if len(on_face) == 2:
            link(*on_face)
        elif len(on_face) == 4:  # two diagonal corners inside: cut each of them off by itself
            for corner in corners:
                if inside[corner]:
                    link(*(e for e in on_face if corner in EDGES[e]))

    # Groups are named by their smallest end point of the rarer kind.
    few_inside = sum(inside) <= 4
    unique = {min(edges): edges for edges in group.values()}

    def rank(edges: set[int]) -> tuple[int, int]:
        ends = [int(k) for e in edges for k in EDGES[e] if inside[k] == few_inside]
        return min(ends), min(edges)

    return [sorted(edges) for edges in sorted(unique.values(), key=rank)]


def _ambiguous_face_of(case: int) -> tuple[int, int, int]:
    """Direction of the only face with four crossings if at least five corners are inside."""
    inside = [bool(case >> k & 1) for k in range(8)]
    found = [
        direction
        for direction, corners in FACES
        if sum(inside[a] != inside[b] for a, b in EDGES if {a, b} <= corners) == 4
    ]
    return found[0] if len(found) == 1 and sum(inside) >= 5 else (0, 0, 0)


@cache
def dual_tables() -> DualTables:
    """Build the tables (a few milliseconds, once a process)."""
    groups = np.full((256, MAX_GROUPS, MAX_GROUP_EDGES), -1, np.int64)
    count = np.zeros(256, np.int64)
    group_of_edge = np.full((256, 12), -1, np.int64)
    for case in range(256):
        found = _groups_of(case)
        count[case] = len(found)
        for g, edges in enumerate(found):
            groups[case, g, : len(edges)] = edges
            group_of_edge[case, edges] = g
    face = np.array([_ambiguous_face_of(case) for case in range(256)], np.int64)
    return DualTables(groups, count, group_of_edge, face, (face != 0).any(axis=1))
