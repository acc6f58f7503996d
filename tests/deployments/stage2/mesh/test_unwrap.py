import numpy as np
import pytest
from analytic_voxels import ball
from scipy import ndimage

from deployments.stage2.mesh.extraction import extract_mesh
from deployments.stage2.mesh.surface import Mesh
from deployments.stage2.mesh.topology import body_labels
from deployments.stage2.mesh.unwrap import Atlas, gutter_of, unwrap

SIZE = 256


def staircase() -> Mesh:
    """A spiral ramp of two turns, all of it seen from above: it lies over itself."""
    turn, radius = np.meshgrid(np.linspace(0, 4 * np.pi, 80), np.linspace(0.1, 0.4, 8))
    points = np.stack((radius * np.cos(turn), radius * np.sin(turn), 0.03 * turn - 0.2), axis=2)
    a = (np.arange(7)[:, None] * 80 + np.arange(79)).ravel()
    faces = np.concatenate((np.stack((a, a + 80, a + 1), 1), np.stack((a + 1, a + 80, a + 81), 1)))
    return Mesh(points.reshape(-1, 3).astype(np.float32), faces.astype(np.int32))


def crumpled() -> Mesh:
    """A ball with a surface so rough that folds hide others from every side."""
    mesh = extract_mesh(*ball(), 32, colours=False)
    noise = np.random.default_rng(0).normal(0, 0.01, mesh.vertices.shape)
    return Mesh((mesh.vertices + noise).astype(np.float32), mesh.faces)


MESHES = {
    "ball": lambda: extract_mesh(*ball(), 32, colours=False),
    "staircase": staircase,
    "crumpled": crumpled,
}


@pytest.fixture(scope="module", params=MESHES)
def unwrapped(request: pytest.FixtureRequest) -> tuple[Mesh, Atlas]:
    mesh = MESHES[request.param]()
    return mesh, unwrap(mesh, SIZE)


def drawn(atlas: Atlas) -> tuple[np.ndarray, np.ndarray]:
    """How many faces cover the middle of each texel, and the number of its chart or -1."""
    label = body_labels(atlas.faces, len(atlas.uv))
    count, chart = np.zeros((SIZE, SIZE), int), np.full((SIZE, SIZE), -1)
    for face in atlas.faces:
        p = atlas.uv[face].astype(np.float64) * SIZE - 0.5
        low, high = np.ceil(p.min(axis=0)).astype(int), np.floor(p.max(axis=0)).astype(int)
        x, y = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1))
        (ux, uy), (vx, vy) = p[1] - p[0], p[2] - p[0]
        area = ux * vy - uy * vx
        if area == 0:
            continue
        b = ((x - p[0, 0]) * vy - (y - p[0, 1]) * vx) / area
        c = ((y - p[0, 1]) * ux - (x - p[0, 0]) * uy) / area
        inside = np.minimum(np.minimum(b, c), 1 - b - c) > 1e-4
        count[y[inside], x[inside]] += 1
        chart[y[inside], x[inside]] = label[face[0]]
    return count, chart


def test_every_face_has_its_place(unwrapped: tuple[Mesh, Atlas]) -> None:
    mesh, atlas = unwrapped
    assert np.array_equal(atlas.source[atlas.faces], mesh.faces)
    assert atlas.uv.min() >= 0
    assert atlas.uv.max() <= 1
    assert len(np.unique(body_labels(atlas.faces, len(atlas.uv)))) == atlas.charts


def test_no_texel_belongs_to_two_faces(unwrapped: tuple[Mesh, Atlas]) -> None:
    count, _ = drawn(unwrapped[1])
    assert count.max() == 1
    assert count.mean() > 0.3


def test_charts_keep_the_gutter(unwrapped: tuple[Mesh, Atlas]) -> None:
    _, chart = drawn(unwrapped[1])
    window = 2 * gutter_of(SIZE) - 1  # every texel nearer than the gutter
    highest = ndimage.maximum_filter(chart, window, mode="constant", cval=-1)
    lowest = ndimage.minimum_filter(np.where(chart < 0, 1 << 30, chart), window)
    own = chart >= 0
    assert np.array_equal(highest[own], chart[own])
    assert np.array_equal(lowest[own], chart[own])


def test_a_surface_over_itself_is_cut() -> None:
    assert unwrap(staircase(), SIZE).charts > 1


def test_the_head_is_drawn_finer() -> None:
    mesh = MESHES["ball"]()
    atlas = unwrap(mesh, SIZE)
    corners, height = atlas.uv[atlas.faces].astype(np.float64), mesh.vertices[mesh.faces][:, :, 2]
    drawn_area = np.abs(np.linalg.det(corners[:, 1:] - corners[:, :1]))
    area = np.abs(mesh.face_normals()[:, 2])  # from above and below
    top, bottom = height.mean(axis=1) > 0.25, height.mean(axis=1) < -0.25
    ratio = (
        drawn_area[top].sum() / area[top].sum() / (drawn_area[bottom].sum() / area[bottom].sum())
    )
    assert ratio == pytest.approx(1.5**2, rel=0.1)


def test_the_same_mesh_has_the_same_atlas(unwrapped: tuple[Mesh, Atlas]) -> None:
    mesh, atlas = unwrapped
    again = unwrap(mesh, SIZE)
    assert np.array_equal(again.uv, atlas.uv)
    assert np.array_equal(again.faces, atlas.faces)
