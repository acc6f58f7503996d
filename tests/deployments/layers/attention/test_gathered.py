"""Every query attends to the keys that it picks; the kernel does what the plain form does."""

from __future__ import annotations

import pytest
import torch

from deployments.layers import pointwise
from deployments.layers.attention.gathered import as_picks, gathered_attention


def drawn(device: str, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 4, 24).to(device, dtype) for n in (70, 9, 9))
    return q, k, v, as_picks(torch.randint(0, 9, (70, 5))).to(device)


def test_it_is_softmax_over_the_picked_keys() -> None:
    q, k, v, picks = drawn("cpu", torch.float32)
    keys, values = k[1, picks[7].long(), 2], v[1, picks[7].long(), 2]  # of one query and head
    weights = (keys @ q[1, 7, 2] / 24**0.5).softmax(0)
    torch.testing.assert_close(gathered_attention(q, k, v, picks)[1, 7, 2], weights @ values)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_kernel_does_what_the_plain_form_does(dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    inputs = drawn("cuda", dtype)
    with torch.inference_mode():
        fused = gathered_attention(*inputs)
        pointwise.use_kernels(False)
        try:
            expected = gathered_attention(*inputs)
        finally:
            pointwise.use_kernels(True)
    loose = 1e-5 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(fused, expected, atol=loose, rtol=loose)
