"""Fused kernels do what the plain forms do (needs a GPU; the parity kit holds the plain forms)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from deployments.layers import hopper_trial, pointwise

VIEWS, SIZE, CHANNELS = 5, 6, 96


def steps(device: str, dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
    torch.manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape).to(device, dtype)

    rows = 2 * VIEWS * 2
    pictures = (drawn(rows, CHANNELS, SIZE, SIZE) + 2).contiguous(memory_format=torch.channels_last)
    tokens, more = drawn(rows, SIZE**2, CHANNELS), drawn(rows, SIZE**2, CHANNELS)
    vector = drawn(CHANNELS)
    layer = nn.LayerNorm(CHANNELS).to(device, dtype)
    layer.weight.data.copy_(vector)
    layer.bias.data.copy_(vector + 1)
    grouped = pointwise.to_rowwise(more, VIEWS).contiguous()
    heads = drawn(2, 7, 3, 4, 24)
    gamma = drawn(4, 24)
    linear = nn.Linear(CHANNELS, 48).to(device, dtype)
    doubled = nn.Linear(CHANNELS, 160).to(device, dtype)
    views = drawn(2, VIEWS, 2, SIZE, SIZE, CHANNELS)
    narrow = drawn(rows, SIZE**2, 48)
    convolution = nn.Conv2d(4, CHANNELS, 3, padding=1, stride=2).to(device, dtype)
    narrow_pictures = drawn(rows, 4, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    odd, odd_layer = drawn(7, 3, 100), nn.LayerNorm(100).to(device, dtype)
    long, long_layer = drawn(9, 1280) + 3, nn.LayerNorm(1280).to(device, dtype)
    longest, longest_layer = drawn(3, 2048 + 24), nn.LayerNorm(2048 + 24).to(device, dtype)
    items, fewer = drawn(3, 7, CHANNELS), drawn(1, 7, CHANNELS)
    return {
        "convolve": lambda: pointwise.convolve(convolution, narrow_pictures),
        "bias_in_place": lambda: pointwise.bias_in_place(pictures.clone(), vector),
        "layer_norm": lambda: pointwise.layer_norm(tokens, layer),
        "mean_into": lambda: averaged(views.clone()),
        "add_gated": lambda: pointwise.add_gated(tokens, more, vector),
        "add_product": lambda: pointwise.add_product(narrow.clone(), more, linear.weight),
        "linear_gelu": lambda: pointwise.linear_gelu(tokens, linear),
        "geglu": lambda: pointwise.geglu(tokens),
        "linear_geglu": lambda: pointwise.linear_geglu(tokens, doubled),
        "add_norm": lambda: pointwise.add_norm(tokens, more, layer),
        "add_norm_odd": lambda: pointwise.add_norm(odd, odd, odd_layer),
        "layer_norm_1280": lambda: pointwise.layer_norm(long, long_layer),
        "layer_norm_2048": lambda: pointwise.layer_norm(longest, longest_layer),
        "add_norm_gated": lambda: pointwise.add_norm(tokens, more, layer, vector),
        "norm_modulated": lambda: pointwise.norm_modulated(tokens, vector, vector, 1e-6),
        "add_modulated": lambda: pointwise.add_norm_modulated(tokens, more, vector, vector, 1e-6),
        "add_modulated_gated": lambda: pointwise.add_norm_modulated(
            tokens, more, vector, vector, 1e-6, gate=vector
        ),
        "add_modulated_blank": lambda: pointwise.add_norm_modulated(
            items, fewer, vector, vector, 1e-6, blank=vector
        ),
        "norm_shifted": lambda: pointwise.norm_shifted(tokens, layer, vector),
        "to_rowwise": lambda: pointwise.norm_to_rowwise(tokens, layer, vector, VIEWS),
        "from_rowwise": lambda: pointwise.add_rowwise_norm(tokens, grouped, layer, vector, VIEWS),
        "head_rms_norm": lambda: pointwise.head_rms_norm(heads[:, :, 1], gamma),
        "head_rms_norm_of_two": lambda: pointwise.head_rms_norm(
            heads[:, :, :2].flatten(2, 3), torch.cat([gamma, gamma + 1])
        ),
    }


def averaged(views: torch.Tensor) -> torch.Tensor:
    """Two strided pieces of the pictures, the first one changed in place."""
    pointwise.mean_into(views[:, 0, :, :2, 2:4], views[:, 4, :, 1::3, 1::3])
    return views


NAMES = list(steps("cpu", torch.float32))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_kernel_does_what_the_plain_form_does(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(pointwise, "_FEWEST_GATED_ROWS", 1)
    work = steps("cuda", dtype)[name]
    with torch.inference_mode():
        try:
            fused = work()
            pointwise.use_kernels(False)
            expected = work()
        finally:
            pointwise.use_kernels(True)
    loose = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 4e-2}[dtype]
    torch.testing.assert_close(fused, expected, atol=loose, rtol=loose)


@pytest.mark.gpu
def test_on_hopper_the_gated_product_passes_its_trial(caplog: pytest.LogCaptureFixture) -> None:
    if torch.cuda.get_device_capability() != hopper_trial.CAPABILITY:
        pytest.skip("the kernel is made for compute capability 9.0")
    with torch.inference_mode():
        x = torch.empty(1, device="cuda", dtype=torch.float16)
        assert hopper_trial.takes(x, "gated product", pointwise._gated_product_trial), caplog.text


def test_row_wise_order_keeps_the_rows_of_four_views_together() -> None:
    view = torch.arange(VIEWS).repeat_interleave(2)[:, None].expand(-1, SIZE**2)
    row = torch.arange(SIZE**2).div(SIZE, rounding_mode="floor").expand(2 * VIEWS, -1)
    tokens = torch.stack([view, row], dim=-1)
    grouped = pointwise.to_rowwise(tokens, VIEWS)  # (G, 2, S, 4, S, 2)
    assert grouped.shape == (1, 2, SIZE, 4, SIZE, 2)
    assert (grouped[..., 0] == torch.arange(4).view(4, 1)).all()
    assert (grouped[..., 1] == torch.arange(SIZE).view(SIZE, 1, 1)).all()
