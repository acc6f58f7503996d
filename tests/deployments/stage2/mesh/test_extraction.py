import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from analytic_voxels import ball, hollow_ball, sphere, voxels_of

from deployments.errors import BackendError, GenerationError
from deployments.stage2.mesh.corners import WEIGHTS, average_corners
from deployments.stage2.mesh.dual_tables import CORNERS
from deployments.stage2.mesh.extraction import extract_mesh
from deployments.stage2.mesh.extractor import choose_extractor
from deployments.stage2.mesh.kaolin_extractor import REQUIRED, import_flexicubes
from deployments.stage2.mesh.topology import topology

BALL = 4 / 3 * np.pi * 0.3**3


def test_a_ball_is_closed_round_and_faces_outward() -> None:
    mesh = extract_mesh(*ball(), 32)
    assert topology(mesh).watertight
    assert mesh.volume() == pytest.approx(BALL, rel=0.02)
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(0.3, abs=0.1 / 32)
    outward = (mesh.vertex_normals() * mesh.vertices).sum(axis=1) / 0.3
    assert outward.min() > 0.95


def test_an_inner_wall_is_kept_only_when_faithful() -> None:
    faithful = extract_mesh(*hollow_ball(), 32, faithful=True)
    solid = extract_mesh(*hollow_ball(), 32)
    assert topology(faithful).bodies == 2
    assert faithful.volume() < 0.8 * BALL
    assert topology(solid).bodies == 1
    assert solid.volume() == pytest.approx(BALL, rel=0.02)


def test_thin_and_thick_shells_give_the_same_solid() -> None:
    thick, thin = extract_mesh(*ball(), 32), extract_mesh(*hollow_ball(), 32)
    assert np.array_equal(thick.faces, thin.faces)
    assert np.array_equal(thick.vertices, thin.vertices)


def test_a_subject_that_touches_the_border_is_closed() -> None:
    """A ball half sunk into the floor of the grid."""
    coords, features = voxels_of(lambda p: sphere(0.3)(p + np.array((0, 0, 0.5))), 32, 12.0)
    assert not topology(extract_mesh(coords, features, 32, faithful=True)).watertight
    mesh = extract_mesh(coords, features, 32)
    assert topology(mesh).watertight
    assert mesh.volume() == pytest.approx(BALL / 2, rel=0.03)


def test_colours_follow_the_position() -> None:
    """Colour logits that grow with x arrive at the vertices as that function of x."""
    coords, features = voxels_of(sphere(0.3), 32, 12.0)
    x = (coords[:, None, 0] + torch.from_numpy(CORNERS)[:, 0]) / 32 - 0.5
    features[:, 53:101].view(-1, 8, 6)[..., 0] = 4.0 * x
    mesh = extract_mesh(coords, features, 32)
    assert mesh.attributes is not None
    expected = 1 / (1 + np.exp(-4.0 * mesh.vertices[:, 0]))
    assert mesh.attributes[:, 0] == pytest.approx(expected, abs=0.003)
    assert mesh.attributes[:, 1] == pytest.approx(0.5)


def test_the_order_of_voxels_does_not_matter_for_the_shape() -> None:
    coords, features = ball()
    shuffled = torch.randperm(len(coords), generator=torch.Generator().manual_seed(1))
    mesh, other = extract_mesh(*ball(), 32), extract_mesh(coords[shuffled], features[shuffled], 32)
    assert np.array_equal(mesh.faces, other.faces)
    assert other.vertices == pytest.approx(mesh.vertices, abs=1e-6)


def test_nothing_inside_is_an_error_with_a_remedy() -> None:
    coords, features = ball()
    features[:, 0:8] = 1.0
    with pytest.raises(GenerationError, match="seed") as caught:
        extract_mesh(coords, features, 32)
    assert caught.value.code == "empty_mesh"


@pytest.mark.parametrize("channel", [3, 20])
def test_broken_features_are_named(channel: int) -> None:
    coords, features = ball()
    features[5, channel] = torch.nan
    with pytest.raises(GenerationError) as caught:
        extract_mesh(coords, features, 32)
    assert caught.value.code == "mesh_not_finite"


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(BackendError, match=r"'marching'.*native, kaolin"):
        choose_extractor("marching")


def _kaolin_missing() -> str:
    try:
        import_flexicubes()
    except BackendError as error:
        return str(error.detail["reason"])
    return ""


@pytest.mark.skipif(not _kaolin_missing(), reason="kaolin is installed and works")
def test_a_missing_kaolin_is_refused_in_the_promised_words() -> None:
    with pytest.raises(BackendError) as caught:
        choose_extractor("kaolin")
    assert str(caught.value) == REQUIRED
    assert caught.value.code == "kaolin_unavailable"
    assert "kaolin" in caught.value.detail["reason"]


def test_a_placeholder_is_called_a_placeholder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path
    (folder / "kaolin").mkdir()
    (folder / "kaolin" / "__init__.py").write_text("raise ImportError('get it from NVIDIA')\n")
    (folder / "kaolin-0.1.dist-info").mkdir()
    (folder / "kaolin-0.1.dist-info" / "METADATA").write_text("Name: kaolin\nVersion: 0.1\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "kaolin"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(BackendError) as caught:
        import_flexicubes()
    assert "placeholder" in caught.value.detail["reason"]


@pytest.mark.skipif(bool(_kaolin_missing()), reason=f"kaolin: {_kaolin_missing()}")
@pytest.mark.parametrize("share", [0.05, 0.4, 1.0])
def test_kaolin_and_native_agree_bit_for_bit(share: float) -> None:
    generator = torch.Generator().manual_seed(7)
    coords = (torch.rand(16, 16, 16, generator=generator) < share).nonzero()
    features = 2.0 * torch.randn(len(coords), 101, generator=generator)
    field = average_corners(coords, features, 16)
    native = choose_extractor("native")(field, coords, features[:, WEIGHTS])
    kaolin = choose_extractor("kaolin")(field, coords, features[:, WEIGHTS])
    assert torch.equal(native[0], kaolin[0])
    assert torch.equal(native[1], kaolin[1])
    assert native[2] is not None
    assert torch.allclose(native[2], kaolin[2], atol=1e-6)
