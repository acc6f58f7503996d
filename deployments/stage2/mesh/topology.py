"""Is the mesh closed, and in how many pieces?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deployments.stage2.compiled import compiled
from deployments.stage2.mesh.edges import find_edges
from deployments.stage2.mesh.surface import Int32, Mesh


@dataclass(frozen=True)
class Topology:
    """Counts of what a clean closed surface does not have, and what follows."""

    boundary_edges: int  # used by one face
    crowded_edges: int  # used by three faces or more
    flipped_edges: int  # used by two faces that disagree about the outside
    bodies: int  # pieces connected through vertices

    @property
    def edge_manifold(self) -> bool:
        """No edge has more than two faces."""
        return self.crowded_edges == 0

    @property
    def watertight(self) -> bool:
        """Every edge has exactly two faces that agree about the outside."""
        return self.boundary_edges == self.crowded_edges == self.flipped_edges == 0


def topology(mesh: Mesh) -> Topology:
    """Check all edges of a mesh."""
    edges = find_edges(mesh.faces, len(mesh.vertices))
    labels = body_labels(mesh.faces, len(mesh.vertices))
    used = np.zeros(len(mesh.vertices), bool)
    used[labels[mesh.faces[:, 0]]] = True
    return Topology(edges.boundary, edges.crowded, edges.flipped, int(used.sum()))


def body_labels(faces: Int32, vertices: int) -> Int32:
    """The connected piece that each vertex belongs to, (V,), named by its smallest vertex."""
    label = np.arange(vertices, dtype=np.int32)
    _unite(np.ascontiguousarray(faces, np.int32), label)
    return label


@compiled
def _unite(faces: Int32, label: Int32) -> None:
    """The smallest vertex that can be reached stands for its piece."""
    for f in range(len(faces)):
        for k in range(1, 3):
            a, b = faces[f, 0], faces[f, k]
            while label[a] != a:
                label[a] = label[label[a]]
                a = label[a]
            while label[b] != b:
                label[b] = label[label[b]]
                b = label[b]
            label[max(a, b)] = min(a, b)
    for v in range(len(label)):
        label[v] = label[label[v]]
