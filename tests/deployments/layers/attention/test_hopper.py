"""Our attention kernel for Hopper gives what SDPA gives (needs such a card)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deployments.layers.attention import attention, hopper


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def fused(items: int, tokens: int, heads: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Slices of one qkv product on the card."""
    torch.manual_seed(0)
    qkv = torch.randn(items, tokens, 3, heads, 64).to("cuda", dtype)
    q, k, v = qkv.unbind(2)
    return q, k, v


def skip_elsewhere() -> None:
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the kernel is made for compute capability 9.0")


def test_on_a_cpu_another_kernel_is_taken() -> None:
    hopper.use_hopper_kernel(True)
    try:
        q = torch.randn(1, 8192, 2, 64)
        assert not hopper.takes(q, q, q)
    finally:
        hopper.use_hopper_kernel(False)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "groups", "polynomials"),
    [
        (torch.float16, 3, 2),
        (torch.float16, 3, 0),
        (torch.float16, 2, 4),
        (torch.bfloat16, 3, 2),
    ],
    ids=str,
)
def test_kernel_gives_what_sdpa_gives(dtype: torch.dtype, groups: int, polynomials: int) -> None:
    skip_elsewhere()
    from deployments.layers.attention.hopper_gluon import Division
    from deployments.layers.attention.hopper_gluon import attention as kernel

    q, k, v = fused(2, 1280, 3, dtype)
    registers = 160 if groups == 3 else 240
    division = Division(groups=groups, polynomials=polynomials, registers=registers)
    loose = 2e-3 if dtype is torch.float16 else 1e-2
    # As it comes, with scores far apart, and with a block of queries that ends in the middle.
    for some, size in ((q, 1.0), (8 * q, 8.0), (q[:, :200].contiguous(), 1.0)):
        found = kernel(some, k, v, division).double()
        torch.testing.assert_close(found, reference(some, k, v), atol=loose * size, rtol=loose)


@pytest.mark.gpu
def test_long_sequences_go_to_the_kernel_where_it_is_wanted() -> None:
    skip_elsewhere()
    q, k, v = fused(1, 8192, 2, torch.float16)
    with torch.inference_mode():
        hopper.use_hopper_kernel(True)
        try:
            assert hopper.takes(q, k, v)
            assert not hopper.takes(q, k[:, :8100], v[:, :8100])
            assert not hopper.takes(q, k[:, :4096], v[:, :4096])
            found = attention(q, k, v)
        finally:
            hopper.use_hopper_kernel(False)
        assert not hopper.takes(q, k, v)
    torch.testing.assert_close(found.double(), reference(q, k, v), atol=2e-3, rtol=2e-3)
