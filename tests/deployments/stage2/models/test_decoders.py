from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deployments.layers.sparse.sites import Sites
from deployments.layers.sparse.tensor import SparseTensor
from deployments.stage2.models.config import (
    GaussianConfig,
    GaussianDecoderConfig,
    MeshDecoderConfig,
)
from deployments.stage2.models.decoder_trunk import MultiviewBlock
from deployments.stage2.models.gaussian_decoder import (
    GaussianDecoder,
    inverse_sigmoid,
    inverse_softplus,
    starting_places,
)
from deployments.stage2.models.mesh_decoder import MeshDecoder
from deployments.stage2.models.view_features import CellFeatures, read_views

SIZES = {"model_channels": 32, "num_blocks": 2, "num_heads": 2, "mv_dim": 4}


def seeded(module: torch.nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)


def voxels(count: int = 40, grid: int = 8, seed: int = 0) -> Sites:
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(grid**3, generator=generator)[:count].sort().values
    coords = torch.stack([0 * cells, cells // grid**2, cells // grid % grid, cells % grid], dim=1)
    return Sites(coords.int())


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def identity(width: int) -> torch.nn.Linear:
    layer = torch.nn.Linear(width, width)
    layer.weight.data, layer.bias.data = torch.eye(width), torch.zeros(width)
    return layer


@pytest.mark.parametrize(("resolution", "scaled"), [(8, False), (8, True), (4, False), (4, True)])
def test_voxels_read_the_cells_that_show_them(resolution: int, scaled: bool) -> None:
    """Features that spell view, row and column, so that what is read can be read off."""
    grid = 8
    view, row, column = torch.meshgrid(*(torch.arange(n) for n in (4, grid, grid)), indexing="ij")
    features = torch.stack([view, row, column], dim=-1)[None].float()  # (1, 4, G, G, 3)
    sites = voxels(20, resolution)
    even, odd = read_views(
        sites.coords, resolution, features, 10 + features, identity(3), identity(3), scaled=scaled
    )
    step = grid // resolution if scaled else 1
    for voxel, (_, x, y, z) in enumerate(sites.coords.tolist()):
        rows = (resolution - 1 - z) * step if scaled else grid - 1 - z
        for views, found, across in (((0, 2), even, x), ((1, 3), odd, y)):
            expected = [[v + d, rows + d, across * step + d] for d in (10, 0) for v in views]
            assert found.feats[found.cell[voxel]].view(4, 3).tolist() == expected


def test_reading_by_cell_equals_one_linear_layer_over_everything() -> None:
    block = MultiviewBlock(16, 2, 2.0, mv_dim=3)
    seeded(block)
    n, dim = 7, 3
    h, normal, colour = random(n, 16), random(n, 4, dim, seed=2), random(n, 4, dim, seed=3)
    views = [
        CellFeatures(
            torch.cat([part[:, v] for part in (normal, colour) for v in (p, p + 2)], dim=1),
            torch.arange(n),
        )
        for p in (0, 1)
    ]
    everything = torch.cat([h, normal.flatten(1), colour.flatten(1)], dim=1)
    expected = block.mv_condition(everything)
    torch.testing.assert_close(block._read_pictures(h, views), expected, atol=1e-5, rtol=1e-5)


def test_mesh_decoder_describes_64_cells_a_voxel() -> None:
    decoder = MeshDecoder(MeshDecoderConfig(resolution=8, **{**SIZES, "model_channels": 256}))
    seeded(decoder)
    latent = SparseTensor(voxels(), random(40, 8))
    out = decoder(latent, random(1, 4, 8, 8, 16), random(1, 4, 8, 8, 16, seed=2))
    assert out.feats.shape == (64 * 40, 101)
    assert torch.equal(out.coords[::64, 1:] // 4, latent.coords[:, 1:])
    assert int(out.coords.max()) < decoder.mesh_resolution == 32


def test_pictures_change_what_is_decoded() -> None:
    decoder = GaussianDecoder(GaussianDecoderConfig(resolution=8, **SIZES))
    seeded(decoder)
    latent, picture = SparseTensor(voxels(), random(40, 8)), random(1, 4, 8, 8, 16)
    raw = decoder(latent, picture, picture)
    for view in range(4):
        other = picture.clone()
        other[:, view] += 1
        assert (decoder(latent, other, picture) - raw).abs().max() > 1e-3
        assert (decoder(latent, picture, other) - raw).abs().max() > 1e-3


def test_half_precision_follows_full() -> None:
    config = MeshDecoderConfig(resolution=8, **{**SIZES, "model_channels": 256})
    full, half = MeshDecoder(config), MeshDecoder(config, torch.bfloat16)
    seeded(full)
    for parameter in full.parameters():
        parameter.data *= 0.3
    half.load_state_dict(full.state_dict())
    assert half.dtype is torch.bfloat16
    assert half.input_layer.weight.dtype is half.out_layer.weight.dtype is torch.float32
    latent = SparseTensor(voxels(), random(40, 8))
    pictures = random(1, 4, 8, 8, 16), random(1, 4, 8, 8, 16, seed=2)
    expected, found = full(latent, *pictures).feats, half(latent, *pictures).feats
    assert found.dtype is torch.float32
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_gaussians_start_inside_their_voxel_with_the_configured_size_and_opacity() -> None:
    decoder = GaussianDecoder(GaussianDecoderConfig(resolution=8, **SIZES))
    sites = voxels()
    active = decoder.represent(sites.coords, torch.zeros(40, 448)).activate(GaussianConfig())
    assert len(active) == 32 * 40
    centre = np.repeat((sites.coords[:, 1:].numpy() + 0.5) / 8 - 0.5, 32, axis=0)
    assert np.abs(active.xyz - centre).max() <= 0.5 / 8
    np.testing.assert_allclose(active.scale, np.hypot(0.004, 9e-4), rtol=1e-4)
    np.testing.assert_allclose(active.opacity, 0.1, rtol=1e-5)
    np.testing.assert_allclose(active.rotation, np.tile([1, 0, 0, 0], (1280, 1)))
    np.testing.assert_allclose(active.color, 0.5)


def test_rates_scale_the_raw_channels() -> None:
    rates = GaussianConfig.from_dict({"lr": {"_rotation": 0.5}})
    config = GaussianDecoderConfig(resolution=8, representation_config=rates, **SIZES)
    gaussians = GaussianDecoder(config).represent(voxels(3).coords, torch.ones(3, 448))
    assert torch.equal(gaussians.rotation, torch.full((96, 4), 0.5))
    assert torch.equal(gaussians.opacity, torch.ones(96, 1))


def test_starting_places_are_hammersley_points() -> None:
    places = (torch.tanh(starting_places(GaussianConfig()).double()) * 1.5 + 1) / 2
    expected = [[1 / 32, 1 / 2, 1 / 3], [2 / 32, 1 / 4, 2 / 3], [3 / 32, 3 / 4, 1 / 9]]
    torch.testing.assert_close(places[1:4], torch.tensor(expected).double(), atol=1e-6, rtol=0)


def test_inverses() -> None:
    assert F.softplus(torch.tensor(inverse_softplus(0.004))).item() == pytest.approx(0.004)
    assert inverse_softplus(0.004) == pytest.approx(-5.51946, abs=1e-5)
    assert inverse_sigmoid(0.1) == pytest.approx(-2.19722, abs=1e-5)
