from __future__ import annotations

import pytest
import torch

from deployments.layers.attention import attention


@pytest.mark.parametrize("keys", [7, 12])
def test_attention_is_softmax_of_scaled_products(keys: int) -> None:
    q, k, v = torch.randn(2, 12, 3, 8), torch.randn(2, keys, 3, 8), torch.randn(2, keys, 3, 8)
    weights = torch.einsum("bthd,bshd->bhts", q, k).div(8**0.5).softmax(-1)
    expected = torch.einsum("bhts,bshd->bthd", weights, v)
    torch.testing.assert_close(attention(q, k, v), expected)


def test_slices_of_a_fused_product_give_what_copies_give() -> None:
    q, k, v = torch.randn(2, 9, 3, 4, 8).unbind(2)
    copies = attention(q.contiguous(), k.contiguous(), v.contiguous())
    torch.testing.assert_close(attention(q, k, v), copies)
