import numpy as np
import pytest
from analytic_voxels import ball

from deployments.errors import GenerationError
from deployments.stage2.mesh.cleaning import decimate, keep_bodies
from deployments.stage2.mesh.extraction import extract_mesh
from deployments.stage2.mesh.surface import Mesh
from deployments.stage2.mesh.topology import topology


def _joined(*meshes: Mesh) -> Mesh:
    offsets = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.faces + np.int32(o) for m, o in zip(meshes, offsets, strict=True)]),
    )


def _scaled(mesh: Mesh, scale: float, shift: float = 0.0) -> Mesh:
    return Mesh((mesh.vertices * scale + shift).astype(np.float32), mesh.faces)


def test_floaters_and_cavities_go_and_big_pieces_stay() -> None:
    body = extract_mesh(*ball(), 32, colours=False)
    floater, piece = _scaled(body, 0.1, 0.4), _scaled(body, 0.4, -0.4)
    cavity = Mesh(_scaled(body, 0.7).vertices, body.faces[:, ::-1])
    kept = keep_bodies(_joined(floater, body, cavity, piece))
    assert topology(kept).bodies == 2
    assert kept.volume() == pytest.approx(body.volume() * (1 + 0.4**3), rel=1e-4)


def test_a_surface_turned_inside_out_is_an_error() -> None:
    body = extract_mesh(*ball(), 32, colours=False)
    with pytest.raises(GenerationError, match="encloses any volume"):
        keep_bodies(Mesh(body.vertices, body.faces[:, ::-1]))


@pytest.mark.parametrize(
    ("options", "faces"), [({"simplify": 0.7}, None), ({"target_faces": 500}, 500)]
)
def test_decimation_reaches_its_target_and_stays_closed(
    options: dict[str, float], faces: int | None
) -> None:
    body = extract_mesh(*ball(), 32, colours=False)
    reduced = decimate(body, **options)  # type: ignore[arg-type]
    wanted = faces or len(body.faces) * 0.3
    assert len(reduced.faces) == pytest.approx(wanted, abs=2)
    assert topology(reduced).watertight
    assert reduced.volume() == pytest.approx(body.volume(), rel=0.01)


def test_nothing_to_remove_returns_the_same_faces() -> None:
    body = extract_mesh(*ball(), 32, colours=False)
    assert np.array_equal(decimate(body, simplify=0.0).faces, body.faces)
    assert np.array_equal(decimate(body, target_faces=10**6).faces, body.faces)


def test_a_target_that_would_open_the_mesh_is_missed_by_little() -> None:
    """Forty balls need at least four faces each to stay closed."""
    body = decimate(extract_mesh(*ball(), 32, colours=False), target_faces=400)
    balls = _joined(*[_scaled(body, 0.01, place / 50) for place in range(-20, 20)])
    assert topology(balls).watertight
    reduced = decimate(balls, target_faces=100)
    assert topology(reduced).watertight
    assert len(reduced.faces) < len(balls.faces) / 4
