import numpy as np

from deployments.stage2.mesh.edges import find_edges

TETRAHEDRON = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]], np.int32)


def test_every_face_of_a_closed_body_has_three_neighbours() -> None:
    edges = find_edges(TETRAHEDRON, 4)
    # Edge k runs from corner k to the next: 0-2, 2-1, 1-0 of the first face.
    assert edges.neighbour[0].tolist() == [3, 2, 1]
    assert all(set(row) | {f} == {0, 1, 2, 3} for f, row in enumerate(edges.neighbour.tolist()))
    assert (edges.boundary, edges.crowded, edges.flipped) == (0, 0, 0)


def test_open_and_flipped_edges_are_counted() -> None:
    edges = find_edges(TETRAHEDRON[:3], 4)
    assert (edges.boundary, edges.crowded, edges.flipped) == (3, 0, 0)
    assert edges.neighbour[0].tolist() == [-1, 2, 1]
    turned = TETRAHEDRON.copy()
    turned[1] = turned[1, ::-1]
    assert find_edges(turned, 4).flipped == 3


def test_an_edge_of_three_faces_connects_none_of_them() -> None:
    fan = np.array([[0, 1, 2], [1, 0, 3], [0, 1, 4]], np.int32)
    edges = find_edges(fan, 5)
    assert (edges.boundary, edges.crowded) == (6, 1)
    assert (edges.neighbour == -1).all()
