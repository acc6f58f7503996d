import numpy as np
import pytest

from deployments.stage2.gaussians import Gaussians
from deployments.stage2.texture.colour_field import from_gaussians, from_seen
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
    middle, on_first = from_gaussians(at, cloud)
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
    colour = from_gaussians(np.array([[0.0, 0.06, 0.0]], np.float32), cloud)
    assert colour[0, 0] > 250


def test_faint_gaussians_count_less_and_far_points_take_the_nearest() -> None:
    cloud = _gaussians([[0.0, 0, 0], [0.02, 0, 0]], [[1, 0, 0], [0, 2.0, 0]], opacity=[1.0, 0.01])
    near, far = from_gaussians(np.array([[0.01, 0, 0], [0.4, 0, 0]], np.float32), cloud)
    assert near[0] > 250
    assert far.tolist() == [0.0, 255.0, 0.0]  # brighter than white is cut


def test_seen_texels_on_the_same_side_are_preferred() -> None:
    """Two sides of a thin sheet, the unseen texel exactly between them."""
    seen = Texels(
        np.array([[0.001 * i, y, 0] for y in (-0.004, 0.004) for i in range(8)], np.float32),
        np.array([[0, np.sign(y), 0] for y in (-0.004, 0.004) for _ in range(8)], np.float32),
    )
    colours = np.repeat([[255.0, 0, 0], [0, 0, 255.0]], 8, axis=0).astype(np.float32)
    unseen = Texels(np.array([[0.0035, 0, 0]], np.float32), np.array([[0, 1, 0]], np.float32))
    assert from_seen(unseen, seen, colours)[0, 2] > 200
