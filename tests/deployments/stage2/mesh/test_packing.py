import numpy as np
import pytest

from deployments.stage2.mesh.packing import pack


def sizes(count: int) -> np.ndarray:
    return np.random.default_rng(0).lognormal(0, 0.7, (count, 2))


@pytest.mark.parametrize("count", [1, 2, 40, 300])
def test_rectangles_keep_their_distance(count: int) -> None:
    size, gutter = sizes(count), 0.004
    scale, low, turned = pack(size, gutter)
    high = low + scale * np.where(turned[:, None], size[:, ::-1], size)
    assert low.min() >= gutter - 1e-12
    assert high.max() <= 1 - gutter + 1e-12
    apart = np.maximum(low[:, None] - high, low - high[:, None]).max(axis=2)
    assert apart[~np.eye(count, dtype=bool)].min(initial=1.0) >= gutter - 1e-12


def test_little_of_the_square_stays_empty() -> None:
    size = sizes(300)
    scale, _, _ = pack(size, 0.0)
    assert scale**2 * size.prod(axis=1).sum() > 0.8


def test_a_gutter_that_can_not_be_kept_shrinks() -> None:
    scale, low, _ = pack(np.ones((400, 2)), 0.1)
    assert scale > 0
    assert len({tuple(place) for place in low.tolist()}) == 400
