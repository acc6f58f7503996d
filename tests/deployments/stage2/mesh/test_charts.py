import numpy as np
import trimesh

from deployments.stage2.mesh.charts import DIRECTIONS, components, face_charts
from deployments.stage2.mesh.edges import find_edges
from deployments.stage2.mesh.surface import Int32, Mesh


def charts_of(mesh: Mesh, zone: np.ndarray | None = None) -> tuple[Int32, Int32, Int32]:
    zone = np.zeros(len(mesh.faces), bool) if zone is None else zone
    neighbour = find_edges(mesh.faces, len(mesh.vertices)).neighbour
    return (*face_charts(mesh, neighbour, zone), neighbour)


def made(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(shape.vertices.astype(np.float32), shape.faces.astype(np.int32))


def box() -> Mesh:
    return made(trimesh.creation.box((0.5, 0.4, 0.6)).subdivide_to_size(0.1))


def test_a_box_has_a_chart_for_each_side() -> None:
    mesh = box()
    chart, direction, _ = charts_of(mesh)
    assert sorted(direction.tolist()) == [0, 1, 2, 3, 4, 5]
    normal = mesh.face_normals()
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    np.testing.assert_allclose(normal, DIRECTIONS[direction[chart]], atol=1e-6)


def test_charts_end_at_the_border_of_the_zone() -> None:
    mesh = box()
    upper = mesh.vertices[mesh.faces][:, :, 2].mean(axis=1) > 0.1
    chart, direction, _ = charts_of(mesh, upper)
    assert len(direction) == 10  # the four walls are cut
    assert all(len(set(upper[chart == number])) == 1 for number in range(len(direction)))


def test_every_face_is_seen_by_the_direction_of_its_connected_chart() -> None:
    mesh = made(trimesh.creation.icosphere(4, 0.4))
    rng = np.random.default_rng(0)
    bumpy = Mesh(mesh.vertices + rng.normal(0, 0.004, mesh.vertices.shape).astype("f4"), mesh.faces)
    chart, direction, neighbour = charts_of(bumpy)
    cosine = (bumpy.face_normals() * DIRECTIONS[direction[chart]]).sum(axis=1)
    assert cosine.min() > 0
    assert components(chart, neighbour)[1] == len(direction) < 30
    assert np.bincount(chart).min() > 0
