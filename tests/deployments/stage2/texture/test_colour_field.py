import numpy as np
import pytest
import torch

from deployments.stage2.gaussians import Gaussians
from deployments.stage2.texture.colour_field import (
    cloud_of,
    field,
    from_gaussians,
    from_seen,
    on_lattice,
)
from deployments.stage2.texture.device import field as device_field
from deployments.stage2.texture.projection import Texels


def _gaussians(xyz: list[list[float]], color: list[list[float]], **changes: object) -> Gaussians:
    count = len(xyz)
    values: dict[str, object] = {
        "xyz": xyz,
        "scale": np.full((count, 3), 0.01),
        "rotation": np.tile([1.0, 0.0, 0.0, 0.0], (count, 1)),
        "opacity": np.ones(count),
        "color": color,
        **changes,
    }
    return Gaussians(**{name: np.asarray(value, np.float32) for name, value in values.items()})


def test_a_point_between_two_gaussians_takes_their_mean() -> None:
    cloud = _gaussians([[0.0, 0, 0], [0.02, 0, 0]], [[1, 0, 0], [0, 0, 1]])
    at = np.array([[0.01, 0, 0], [0.0, 0, 0]], np.float32)
    middle, on_first = from_gaussians(torch.from_numpy(at), cloud).numpy()
    assert middle == pytest.approx([127.5, 0, 127.5], abs=0.1)
    assert on_first[0] > 220


def test_a_long_gaussian_reaches_along_its_own_axis() -> None:
    """Turned a quarter about z, the long first axis points along y."""
    half = np.sqrt(0.5)
    cloud = _gaussians(
        [[0.0, 0, 0], [0.0, 0.09, 0]],
        [[1, 0, 0], [0, 0, 1]],
        scale=[[0.1, 0.005, 0.005], [0.005, 0.005, 0.005]],
        rotation=[[half, 0, 0, half], [1, 0, 0, 0]],
    )
    colour = from_gaussians(torch.tensor([[0.0, 0.06, 0.0]]), cloud)
    assert colour[0, 0] > 250


def test_faint_gaussians_count_less_and_far_points_take_the_nearest() -> None:
    cloud = _gaussians([[0.0, 0, 0], [0.02, 0, 0]], [[1, 0, 0], [0, 2.0, 0]], opacity=[1.0, 0.01])
    near, far = from_gaussians(torch.tensor([[0.01, 0, 0], [0.4, 0, 0]]), cloud)
    assert near[0] > 250
    assert far.tolist() == [0.0, 255.0, 0.0]  # brighter than white is cut


def test_seen_texels_on_the_same_side_are_preferred() -> None:
    """Two sides of a thin sheet, the unseen texel exactly between them."""
    sides, place = (-0.004, 0.004), 0.001 * np.arange(8)
    seen = Texels(
        torch.tensor([[x, y, 0] for y in sides for x in place], dtype=torch.float32),
        torch.tensor([[0, np.sign(y), 0] for y in sides for _ in place], dtype=torch.float32),
    )
    colours = torch.tensor([[255.0, 0, 0], [0, 0, 255.0]]).repeat_interleave(8, dim=0)
    unseen = Texels(torch.tensor([[0.0035, 0, 0]]), torch.tensor([[0.0, 1, 0]]))
    assert from_seen(unseen, seen, colours)[0, 2] > 200


def _shell(count: int) -> Gaussians:
    """A painted ball of Gaussians as thick as a decoder's shell."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    xyz = direction * rng.uniform(0.18, 0.2, (count, 1))
    turn = rng.normal(size=(count, 4))
    return _gaussians(
        xyz.tolist(),
        (xyz + 0.5).tolist(),
        scale=rng.uniform(0.002, 0.006, (count, 3)),
        rotation=turn / np.linalg.norm(turn, axis=1, keepdims=True),
        opacity=rng.uniform(0.1, 1.0, count),
    )


def test_sums_around_a_point_and_its_nearest_gaussians_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The form for a GPU, in many portions, against the tree."""
    monkeypatch.setattr(device_field, "PAIRS", 5000)
    gaussians = _shell(20_000)
    cloud = cloud_of(gaussians, torch.device("cpu"))
    points = torch.from_numpy(gaussians.xyz[::40]) + 0.002
    by_tree = field(points, cloud)
    colour, weight = device_field.sums_around(points, cloud)
    assert (weight > 0).all()
    assert (colour / weight[:, None] - by_tree).abs().max() < 0.02
    assert (by_tree - points - 0.5).abs().max() < 0.02


def test_points_far_from_all_gaussians_are_left_to_the_tree() -> None:
    cloud = cloud_of(_shell(2000), torch.device("cpu"))
    colour, weight = device_field.sums_around(torch.tensor([[0.45, 0.45, 0.45]]), cloud)
    assert (colour.abs().max(), weight.max()) == (0, 0)


def test_a_lattice_interpolates_between_its_corners() -> None:
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    found = on_lattice(points, lambda places: places @ torch.tensor([[1.0], [2.0], [3.0]]))
    assert torch.allclose(found, points @ torch.tensor([[1.0], [2.0], [3.0]]), atol=1e-5)
