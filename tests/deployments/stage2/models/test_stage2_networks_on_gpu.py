"""Half precision, Triton convolution and packed attention on a GPU against float32 on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from deployments.layers.attention import choose_backend
from deployments.layers.sparse.backend import choose_sparse_backend
from deployments.layers.sparse.sites import Sites
from deployments.layers.sparse.tensor import SparseTensor
from deployments.stage2.models.config import (
    GaussianDecoderConfig,
    LatentFlowConfig,
    MeshDecoderConfig,
)
from deployments.stage2.models.gaussian_decoder import GaussianDecoder
from deployments.stage2.models.latent_flow import LatentFlow
from deployments.stage2.models.mesh_decoder import MeshDecoder

pytestmark = pytest.mark.gpu
SIZES = {"resolution": 16, "num_blocks": 2, "mv_dim": 32, "window_size": 4}


@pytest.fixture(autouse=True)
def _backends() -> Iterator[None]:
    choose_backend("auto", "cuda")
    choose_sparse_backend("triton", "cuda")
    yield
    choose_backend("auto", "cpu")
    choose_sparse_backend("auto", "cpu")


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pair(build, seed: int = 0):  # type: ignore[no-untyped-def]
    """The same weights in float32 on the CPU and in half precision on the GPU."""
    full, half = build(torch.float32), build(torch.float16)
    generator = torch.Generator().manual_seed(seed)
    for parameter in full.parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    half.load_state_dict(full.state_dict())
    return full.requires_grad_(False).eval(), half.cuda().requires_grad_(False).eval()


def shell() -> torch.Tensor:
    axis = torch.arange(16) - 7.5
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    inside = ((radius < 7.5) & (radius > 5.5)).nonzero().int()
    return torch.nn.functional.pad(inside, (1, 0))


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    error = (found.float().cpu() - expected).square().mean().sqrt()
    assert error < 0.01 * expected.square().mean().sqrt()


@torch.inference_mode()
def test_latent_flow() -> None:
    config = LatentFlowConfig(
        resolution=16, model_channels=256, cond_channels=64, num_blocks=3, num_heads=4
    )
    full, half = pair(lambda dtype: LatentFlow(config, dtype))
    coords = shell()
    noise, condition = random(len(coords), 8, seed=1), random(1, 50, 64, seed=2)
    time = torch.tensor([640.0])
    expected = full(SparseTensor(Sites(coords), noise), time, full.context_keys(condition))
    found = half(
        SparseTensor(Sites(coords.cuda()), noise.cuda()),
        time.cuda(),
        half.context_keys(condition.cuda()),
    )
    assert_close(found, expected)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["gaussians", "mesh"])
def test_decoders(kind: str) -> None:
    if kind == "mesh":
        config = MeshDecoderConfig(model_channels=256, num_heads=4, **SIZES)
        full, half = pair(lambda dtype: MeshDecoder(config, dtype))
    else:
        sizes = GaussianDecoderConfig(model_channels=128, num_heads=4, **SIZES)
        full, half = pair(lambda dtype: GaussianDecoder(sizes, dtype))
    coords = shell()
    latent = random(len(coords), 8, seed=1)
    pictures = [random(1, 4, 16, 16, 128, seed=seed) for seed in (2, 3)]
    expected = full(SparseTensor(Sites(coords), latent), *pictures)
    on_gpu = SparseTensor(Sites(coords.cuda()), latent.cuda())
    found = half(on_gpu, *(picture.cuda() for picture in pictures))
    if kind == "mesh":
        assert torch.equal(found.coords.cpu(), expected.coords)
        found, expected = found.feats, expected.feats
    assert_close(found, expected)
