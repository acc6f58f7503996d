import numpy as np

from deployments.stage2.mesh.cuts import cut_sparse
from deployments.stage2.mesh.edges import find_edges


def sheet(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (F, 3, 2) and neighbours of a flat sheet of the true cells, two triangles each."""
    side = len(cells) + 1
    row, column = np.nonzero(cells)
    a = row * side + column
    faces = np.stack((a, a + 1, a + side, a + 1, a + side + 1, a + side), 1).reshape(-1, 3)
    places = np.stack((faces % side, faces // side), axis=2).astype(np.float64)
    return places, find_edges(faces.astype(np.int32), side * side).neighbour


def cut(cells: np.ndarray) -> np.ndarray:
    flat, neighbour = sheet(cells)
    return cut_sparse(flat, neighbour, np.zeros(len(flat), np.int32), 0.1)


def test_trousers_come_apart() -> None:
    cells = np.ones((20, 20), bool)
    cells[6:, 4:16] = False
    chart = cut(cells)
    legs = sheet(cells)[0].mean(axis=1)
    left = (legs[:, 1] > 10) & (legs[:, 0] < 10)
    right = (legs[:, 1] > 10) & (legs[:, 0] > 10)
    assert len(set(chart[left])) == len(set(chart[right])) == 1
    assert set(chart[left]).isdisjoint(chart[right])
    assert chart.max() <= 3


def test_a_full_rectangle_stays_whole() -> None:
    assert cut(np.ones((20, 20), bool)).max() == 0
