import numpy as np
import torch

from deployments.stage2.texture.device.growth import grow as grow_tensors
from deployments.stage2.texture.growth import grow


def test_charts_grow_by_their_own_colour_and_the_rest_is_their_mean() -> None:
    texture = np.zeros((64, 64, 3), np.float32)
    known = np.zeros((64, 64), bool)
    known[10:20, 10:20] = known[10:20, 40:50] = True
    texture[10:20, 10:20] = 40.0
    texture[10:20, 40:50] = 200.0
    texture = grow(torch.from_numpy(texture), torch.from_numpy(known), 4).numpy()
    assert np.allclose(texture[6:24, 6:24], 40.0)
    assert np.allclose(texture[6:24, 36:54], 200.0)
    assert np.allclose(texture[40:], 120.0)
    assert np.allclose(texture[5, 5], 120.0)


def test_known_texels_do_not_change() -> None:
    values = np.random.default_rng(0).uniform(0, 255, (32, 32, 3)).astype(np.float32)
    known = np.random.default_rng(1).random((32, 32)) < 0.5
    grown = grow(torch.from_numpy(values.copy()), torch.from_numpy(known), 3).numpy()
    assert np.array_equal(grown[known], values[known])


def test_loops_and_tensor_operations_grow_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    values = 255 * torch.rand(64, 64, 3, generator=generator)
    known = torch.rand(16, 16, generator=generator).repeat_interleave(4, 0).repeat_interleave(4, 1)
    known = known < 0.1
    values[~known] = 0.0
    expected = grow(values.clone(), known, 5)
    assert torch.allclose(grow_tensors(values, known, 5), expected, atol=1e-3)
