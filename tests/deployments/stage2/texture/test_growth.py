import numpy as np

from deployments.stage2.texture.growth import grow


def test_charts_grow_by_their_own_colour_and_the_rest_is_their_mean() -> None:
    texture = np.zeros((64, 64, 3), np.float32)
    known = np.zeros((64, 64), bool)
    known[10:20, 10:20] = known[10:20, 40:50] = True
    texture[10:20, 10:20] = 40.0
    texture[10:20, 40:50] = 200.0
    grow(texture, known, 4)
    assert np.allclose(texture[6:24, 6:24], 40.0)
    assert np.allclose(texture[6:24, 36:54], 200.0)
    assert np.allclose(texture[40:], 120.0)
    assert np.allclose(texture[5, 5], 120.0)


def test_known_texels_do_not_change() -> None:
    values = np.random.default_rng(0).uniform(0, 255, (32, 32, 3)).astype(np.float32)
    known = np.random.default_rng(1).random((32, 32)) < 0.5
    grown = grow(values.copy(), known, 3)
    assert np.array_equal(grown[known], values[known])
