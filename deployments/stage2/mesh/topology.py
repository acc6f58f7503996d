"""Is the mesh closed, and in how many pieces?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

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
    start = mesh.faces.ravel().astype(np.int64)
    end = np.roll(mesh.faces, -1, axis=1).ravel().astype(np.int64)
    undirected = np.minimum(start, end) * len(mesh.vertices) + np.maximum(start, end)
    order = np.argsort(undirected, kind="stable")
    _, first, count = np.unique(undirected[order], return_index=True, return_counts=True)
    forward = (start < end)[order]
    pair = first[count == 2]
    labels = body_labels(mesh.faces, len(mesh.vertices))
    return Topology(
        boundary_edges=int((count == 1).sum()),
        crowded_edges=int((count > 2).sum()),
        flipped_edges=int((forward[pair] == forward[pair + 1]).sum()),
        bodies=len(np.unique(labels[mesh.faces[:, 0]])) if len(mesh.faces) else 0,
    )


def body_labels(faces: Int32, vertices: int) -> NDArray[np.int32]:
    """Number of the connected piece that each vertex belongs to, (V,)."""
    start = np.concatenate((faces[:, 0], faces[:, 1]))
    end = np.concatenate((faces[:, 1], faces[:, 2]))
    graph = coo_matrix((np.ones(len(start), bool), (start, end)), shape=(vertices, vertices))
    labels: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return labels
