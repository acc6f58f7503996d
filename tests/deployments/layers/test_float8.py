"""Products in FP8: what rounding costs, and that a card computes what the plain form does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deployments.errors import BackendError
from deployments.layers import float8
from deployments.layers.float8 import Float8Linear, quantise_rows, require_float8


def test_rows_keep_three_bits_behind_the_first() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 64) * torch.tensor([1e-3, 1.0, 50.0, 1e4, 0.0])[:, None]
    rows, scale = quantise_rows(x)
    assert rows.dtype == torch.float8_e4m3fn
    assert scale.shape == (5, 1)
    error = (rows.float() * scale - x).abs()
    # Half a place of three bits; below 2^-6 of the format the places stop getting finer.
    assert (error <= x.abs() / 16 + scale * 2**-10).all()
    assert (rows[-1].float() == 0).all()


def test_largest_value_of_a_row_uses_the_whole_range() -> None:
    rows, scale = quantise_rows(torch.tensor([[1.0, -7.0, 2.0]]))
    assert rows.float().abs().max() == 448
    torch.testing.assert_close(scale, torch.tensor([[7 / 448]]))


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_close_to_the_one_that_it_quantises(bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(96, 48, bias=bias).requires_grad_(False)
    x = torch.randn(2, 7, 96)
    found, wanted = Float8Linear.of(layer)(x), layer(x)
    assert found.shape == wanted.shape
    assert found.dtype == x.dtype
    error = (found - wanted).norm() / wanted.norm()
    assert 1e-4 < error < 0.06


def test_gelu_comes_before_the_rounding() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32).requires_grad_(False), torch.randn(9, 64)
    quantised = Float8Linear.of(layer)
    expected = quantised(nn.functional.gelu(x, approximate="tanh"))
    torch.testing.assert_close(quantised(x, gelu=True), expected)


def test_a_device_without_fp8_is_refused_with_its_name() -> None:
    with pytest.raises(BackendError, match=r"8\.9 or later, this is cpu") as refused:
        require_float8("cpu")
    assert refused.value.code == "fp8_unavailable"


@pytest.mark.gpu
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_product_on_a_card_is_that_of_the_quantised_values(dtype: torch.dtype, gelu: bool) -> None:
    pytest.importorskip("triton")
    require_float8("cuda")
    torch.manual_seed(0)
    layer = nn.Linear(640, 1024).requires_grad_(False).to(dtype)
    x = torch.randn(300, 640).to(dtype)
    with torch.inference_mode():
        expected = Float8Linear.of(layer)(x, gelu=gelu).float()
        found = Float8Linear.of(layer.cuda())(x.cuda(), gelu=gelu).float().cpu()
    assert found.shape == expected.shape
    assert (found - expected).norm() / expected.norm() < 0.01


@pytest.mark.gpu
def test_rows_are_rounded_on_a_card_as_in_plain_torch() -> None:
    pytest.importorskip("triton")
    torch.manual_seed(0)
    x = torch.randn(37, 1280, dtype=torch.float16)
    with torch.inference_mode():
        rows, scale = float8.quantise_rows(x.cuda())
    expected, expected_scale = quantise_rows(x)
    torch.testing.assert_close(scale.cpu(), expected_scale)
    # Quotients that differ in their last place may fall to the other side of a rounding.
    differ = rows.cpu().view(torch.uint8) != expected.view(torch.uint8)
    assert differ.float().mean() < 1e-3
