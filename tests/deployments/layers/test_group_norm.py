"""Group norms and the passes in front of them: kernels do what the plain forms do (needs a GPU)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deployments.layers import group_norm as norms
from deployments.layers.group_norm import CHUNK, Measured
from deployments.layers.pointwise import use_kernels

ROWS, CHANNELS, SKIPPED = 6, 96, 64
SIZES = {"less than a chunk": 6, "a part of one left": 15, "whole chunks": 16}


def steps(device: str, dtype: torch.dtype, size: int) -> dict[str, Callable[[], Any]]:
    torch.manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        values = torch.randn(shape).to(device, dtype)
        return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values

    def normed(channels: int) -> nn.GroupNorm:
        norm = nn.GroupNorm(32, channels).to(device, dtype)
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
        return norm

    pictures, more = drawn(ROWS, CHANNELS, size, size) + 2, drawn(ROWS, CHANNELS, size, size)
    skip, shift, vector = drawn(ROWS, SKIPPED, size, size), drawn(ROWS, CHANNELS), drawn(CHANNELS)
    group, wide = normed(CHANNELS), normed(CHANNELS + SKIPPED)
    volume = drawn(2, CHANNELS, 5, 5, 5).contiguous(memory_format=torch.channels_last_3d)
    convolution = nn.Conv2d(4, CHANNELS, 3, padding=1, stride=2).to(device, dtype)
    narrow = drawn(ROWS, 4, size, size)
    whole = drawn(ROWS, 64, size, size)  # as many channels as a program takes
    return {
        "alone": lambda: norms.group_norm(pictures, group, silu=False),
        "shift": lambda: norms.group_norm(pictures, group, shift),
        "one shift": lambda: norms.group_norm(pictures, group, vector.expand(ROWS, -1)),
        "volume": lambda: norms.group_norm(volume, group),
        "skip": lambda: norms.group_norm(pictures, wide, skip=skip),
        "measured": lambda: norms.group_norm(norms.measure(pictures), group, shift),
        "measured skip": lambda: norms.group_norm(pictures, wide, skip=norms.measure(skip)),
        "moments": lambda: norms.channel_moments(pictures),
        "moments, 64 channels": lambda: norms.channel_moments(whole),
        "moments of a volume": lambda: norms.channel_moments(volume),
        "add_bias": lambda: known(norms.add_bias(more, vector, pictures)),
        "two biases": lambda: known(norms.add_bias(more, vector, pictures, vector)),
        "bias": lambda: known(norms.bias_measured(pictures.clone(), vector)),
        "convolution": lambda: known(norms.convolve_measured(convolution, narrow)),
    }


def known(found: Measured) -> Measured:
    """With moments in either form: the plain one leaves them to the norm."""
    if found.moments is not None:
        return found
    return Measured(found.pixels, norms.channel_moments(found.pixels))


NAMES = list(steps("cpu", torch.float32, 6))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_kernel_does_what_the_plain_form_does(name: str, size: int, dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    work = steps("cuda", dtype, size)[name]
    with torch.inference_mode():
        try:
            fused = work()
            use_kernels(False)
            expected = work()
        finally:
            use_kernels(True)
    loose = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 4e-2}[dtype]
    if isinstance(fused, Measured):
        torch.testing.assert_close(fused.pixels, expected.pixels, atol=loose, rtol=loose)
        # Of what was stored: a last place there is none in the moments.
        torch.testing.assert_close(
            fused.moments, norms.channel_moments(fused.pixels), atol=1e-3, rtol=1e-4
        )
        fused, expected = fused.moments, expected.moments
        loose *= CHUNK
    elif "moments" in name:
        loose = 1e-3
    torch.testing.assert_close(fused, expected, atol=loose, rtol=loose)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_moments_of_chunks_join_to_those_of_the_picture(size: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, size, size) * 3 + 10
    means, squares = norms.channel_moments(x)
    pixels = size * size
    assert means.shape == squares.shape == (2, -(-pixels // CHUNK), 5)
    counts = torch.full((means.shape[1], 1), float(CHUNK))
    counts[-1] = pixels - CHUNK * (means.shape[1] - 1)
    mean = (means * counts).sum(1) / pixels
    variance = (squares + counts * (means - mean[:, None]) ** 2).sum(1) / pixels
    torch.testing.assert_close(mean, x.mean((2, 3)))
    torch.testing.assert_close(variance, x.var((2, 3), correction=0))


def test_on_a_cpu_nothing_is_measured_for_a_norm_that_finds_its_own_moments() -> None:
    x, vector = torch.randn(2, 8, 3, 3), torch.randn(8)
    assert norms.measure(x).moments is None
    assert norms.add_bias(x, vector, x).moments is None


def test_a_shift_is_added_before_the_group_norm() -> None:
    x, norm, shift = torch.randn(2, 32, 3, 3), nn.GroupNorm(8, 32), torch.randn(2, 32)
    expected = norm(x + shift[:, :, None, None])
    torch.testing.assert_close(norms.group_norm(x, norm, shift, silu=False), expected)
