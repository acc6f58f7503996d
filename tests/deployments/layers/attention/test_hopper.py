"""Our attention kernel for Hopper gives what SDPA gives (needs such a card)."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deployments.layers.attention import attention, choose_backend, hopper
from deployments.layers.pointwise import use_kernels


@pytest.fixture(autouse=True)
def leave_the_usual_backend() -> Iterator[None]:
    yield
    choose_backend("auto", "cpu")


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
    q = torch.empty(1, 18432, 2, 64, dtype=torch.float16)
    with torch.inference_mode():
        assert not hopper.takes(q, q, q)


@pytest.mark.parametrize(
    ("items", "tokens", "heads", "faster"),
    [
        (10, 18432, 5, True),
        (10, 4608, 10, True),
        (10, 1152, 20, False),
        (2, 4096, 16, False),
        (5, 18432, 5, True),  # without guidance: no smaller than what was measured
        (5, 4608, 10, False),  # without guidance: nothing says that so few programs are enough
        (768, 384, 5, False),  # row-wise: many programs, but hardly any keys
    ],
)
def test_sizes_that_measured_faster_are_taken(
    items: int, tokens: int, heads: int, faster: bool
) -> None:
    assert hopper.is_faster(items, tokens, tokens, heads) is faster


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_kernel_gives_what_sdpa_gives(dtype: torch.dtype) -> None:
    skip_elsewhere()
    q, k, v = fused(2, 1280, 3, dtype)
    loose = 2e-3 if dtype is torch.float16 else 1e-2
    # As it comes, with scores far apart, and with a block of queries that ends in the middle.
    for some, size in ((q, 1.0), (8 * q, 8.0), (q[:, :200].contiguous(), 1.0)):
        found = hopper.attention(some, k, v).double()
        torch.testing.assert_close(found, reference(some, k, v), atol=loose * size, rtol=loose)


@pytest.mark.gpu
def test_long_sequences_go_to_the_kernel_unless_sdpa_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    skip_elsewhere()
    monkeypatch.setattr(hopper, "_FEWEST_PROGRAMS", 1)
    caplog.set_level(logging.INFO)
    choose_backend("auto", "cuda")
    q, k, v = fused(1, 4608, 2, torch.float16)
    with torch.inference_mode():
        assert hopper.takes(q, k, v), caplog.text
        assert not hopper.takes(q, k[:, :4600], v[:, :4600])
        assert not hopper.takes(q, k[:, :4480], v[:, :4480])
        ours = attention(q, k, v)
        assert torch.equal(ours, hopper.attention(q, k, v))
        choose_backend("sdpa", "cuda")
        assert not torch.equal(attention(q, k, v), ours)
        use_kernels(False)
        try:
            assert not hopper.takes(q, k, v)
        finally:
            use_kernels(True)
    torch.testing.assert_close(ours.double(), reference(q, k, v), atol=2e-3, rtol=2e-3)
