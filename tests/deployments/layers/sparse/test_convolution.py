from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deployments.layers.sparse.convolution import (
    PointwiseConv3d,
    SubmanifoldConv3d,
    convolve_torch,
)
from deployments.layers.sparse.resampling import subdivide
from deployments.layers.sparse.sites import Sites
from deployments.layers.sparse.tensor import SparseTensor


def shell(grid: int, batch: int = 1, seed: int = 0) -> Sites:
    """A hollow ball with holes: neighbours present and missing in every direction."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(grid) - (grid - 1) / 2
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    wall = (radius < 0.45 * grid) & (radius > 0.45 * grid - 2.5)
    kept = wall & (torch.rand(batch, grid, grid, grid, generator=generator) < 0.9)
    return Sites(kept.nonzero().int())


def filled(module: torch.nn.Module, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2


def dense(feats: torch.Tensor, sites: Sites, weight: torch.Tensor, bias: torch.Tensor):  # type: ignore[no-untyped-def]
    """The same convolution on the zero-filled grid, by PyTorch."""
    b, x, y, z = sites.coords.long().unbind(-1)
    grid = int(sites.coords[:, 1:].max()) + 1
    volume = feats.new_zeros(len(sites.lengths), feats.shape[1], grid, grid, grid)
    volume[b, :, x, y, z] = feats
    out = F.conv3d(volume, weight.permute(0, 4, 1, 2, 3), bias, padding=1)
    return out[b, :, x, y, z]


@pytest.fixture
def case() -> tuple[SubmanifoldConv3d, torch.Tensor, Sites]:
    sites = shell(9, batch=2)
    module = SubmanifoldConv3d(5, 7)
    filled(module)
    feats = torch.randn(len(sites), 5, generator=torch.Generator().manual_seed(2))
    return module, feats, sites


def test_equals_a_dense_convolution_on_the_zero_filled_grid(case) -> None:  # type: ignore[no-untyped-def]
    module, feats, sites = case
    expected = dense(feats, sites, module.conv["weight"], module.conv["bias"])
    torch.testing.assert_close(module(feats, sites), expected, atol=1e-5, rtol=1e-5)


def test_on_children_equals_subdividing_first(case) -> None:  # type: ignore[no-untyped-def]
    module, feats, sites = case
    children = subdivide(SparseTensor(sites, feats))
    expected = module(children.feats, children.sites)
    torch.testing.assert_close(module.on_children(feats, sites), expected)


def test_pointwise_weight_is_viewed_again_and_not_transposed() -> None:
    module = PointwiseConv3d(6, 4)
    filled(module)
    feats = torch.randn(3, 6, generator=torch.Generator().manual_seed(3))
    memory = module.conv["weight"].flatten()
    expected = torch.stack([module.conv["bias"] + row @ memory.view(6, 4) for row in feats])
    torch.testing.assert_close(module(feats), expected)
    linear = F.linear(feats, memory.view(4, 6), module.conv["bias"])
    assert not torch.allclose(expected, linear, atol=0.1)


def test_keys_are_those_of_the_official_checkpoints() -> None:
    shapes = {
        key: tuple(value.shape) for key, value in SubmanifoldConv3d(5, 7).state_dict().items()
    }
    assert shapes == {"conv.weight": (7, 3, 3, 3, 5), "conv.bias": (7,)}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("in_channels", "out_channels"),
    [(5, 7), (8, 16), (128, 1024), (768, 192), (192, 96), (96, 96), (2048, 128), (24, 101)],
)
def test_triton_agrees_with_the_reference(
    dtype: torch.dtype, in_channels: int, out_channels: int
) -> None:
    from deployments.layers.sparse.convolution_triton import convolve_triton

    sites = Sites(shell(24, batch=2).coords.cuda())
    generator = torch.Generator(device="cuda").manual_seed(4)

    def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(shape, generator=generator, device="cuda")

    feats = random(len(sites), in_channels).to(dtype)
    weight = random(out_channels, 3, 3, 3, in_channels, scale=(27 * in_channels) ** -0.5).to(dtype)
    bias = random(out_channels).to(dtype)
    # The reference sums in float64, so that only the kernel's own rounding is seen.
    expected = convolve_torch(feats.double(), weight.double(), bias.double(), sites.neighbours)
    out = convolve_triton(feats, weight, bias, sites.neighbours)
    assert out.dtype is dtype
    # Rounding of a float32 sum grows with the root of its 27 C terms.
    single = max(2e-5, 3e-7 * (27 * in_channels) ** 0.5)
    tolerance = {torch.float32: single, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)
    # Rows of a table may point to fewer feature rows than there are outputs.
    children = sites.subdivided.neighbours >> 3
    out = convolve_triton(feats, weight, bias, children)
    expected = convolve_torch(feats.float(), weight.float(), bias.float(), children)
    torch.testing.assert_close(out.float(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.gpu
def test_triton_of_no_rows_is_no_rows() -> None:
    from deployments.layers.sparse.convolution_triton import convolve_triton

    sites = Sites(torch.empty(0, 4, dtype=torch.int32, device="cuda"), batch=1)
    feats, weight = torch.empty(0, 8, device="cuda"), torch.ones(16, 3, 3, 3, 8, device="cuda")
    out = convolve_triton(feats, weight, torch.ones(16, device="cuda"), sites.neighbours)
    assert out.shape == (0, 16)
