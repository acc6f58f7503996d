import numpy as np
import pytest

from deployments.stage2.mesh.surface import Mesh
from deployments.stage2.mesh.topology import topology

CORNERS = np.eye(4, 3, dtype=np.float32)
TETRAHEDRON = np.array([[0, 2, 3], [2, 1, 3], [1, 0, 3], [0, 1, 2]], np.int32)


def test_a_tetrahedron_is_closed() -> None:
    found = topology(Mesh(CORNERS, TETRAHEDRON))
    assert found.watertight
    assert found.edge_manifold
    assert found.bodies == 1


@pytest.mark.parametrize(
    ("faces", "boundary", "crowded", "flipped"),
    [
        (TETRAHEDRON[:3], 3, 0, 0),
        (np.concatenate((TETRAHEDRON[:3], TETRAHEDRON[3:, ::-1])), 0, 0, 3),
        (np.concatenate((TETRAHEDRON, TETRAHEDRON[:1])), 0, 3, 0),
    ],
    ids=["hole", "turned face", "doubled face"],
)
def test_each_defect_is_counted(
    faces: np.ndarray, boundary: int, crowded: int, flipped: int
) -> None:
    found = topology(Mesh(CORNERS, faces))
    assert not found.watertight
    assert (found.boundary_edges, found.crowded_edges, found.flipped_edges) == (
        boundary,
        crowded,
        flipped,
    )


def test_pieces_are_counted_without_loose_vertices() -> None:
    vertices = np.concatenate((CORNERS, CORNERS + 2, CORNERS + 4)).astype(np.float32)
    faces = np.concatenate((TETRAHEDRON, TETRAHEDRON + 4)).astype(np.int32)
    assert topology(Mesh(vertices, faces)).bodies == 2
