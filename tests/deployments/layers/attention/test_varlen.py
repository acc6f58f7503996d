from __future__ import annotations

import pytest
import torch

from deployments.layers.attention.backend import Backend, choose_backend
from deployments.layers.attention.padding import padded_batches
from deployments.layers.attention.varlen import attention_varlen

LENGTHS = [
    ([5, 1, 0, 12, 300, 7, 3], [5, 1, 0, 12, 300, 7, 3]),
    ([4, 4, 4], [9, 9, 9]),
    ([3, 8, 1], [6, 6, 6]),
    ([2, 3, 0], [0, 5, 4]),
    ([17], [5]),
]


def packed(q_total: int, k_total: int, **options: object) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(7)
    return tuple(
        torch.randn(rows, 2, 16, generator=generator).to(**options)  # type: ignore[call-overload]
        for rows in (q_total, k_total, k_total)
    )


def one_by_one(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, q_lengths: list[int], k_lengths: list[int]
) -> torch.Tensor:
    """The definition: softmax attention of every sequence by itself, in float64."""
    out = []
    for qs, ks, vs in zip(
        q.double().split(q_lengths),
        k.double().split(k_lengths),
        v.double().split(k_lengths),
        strict=True,
    ):
        weights = torch.einsum("qhd,khd->hqk", qs, ks / 16**0.5).softmax(-1)
        out.append(torch.einsum("hqk,khd->qhd", weights, vs))
    return torch.cat(out)


@pytest.mark.parametrize(("q_lengths", "k_lengths"), LENGTHS)
def test_each_sequence_attends_to_itself_only(q_lengths: list[int], k_lengths: list[int]) -> None:
    q, k, v = packed(sum(q_lengths), sum(k_lengths))
    out = attention_varlen(q, k, v, q_lengths, k_lengths)
    expected = one_by_one(q, k, v, q_lengths, k_lengths).float()
    torch.testing.assert_close(out, expected, atol=2e-6, rtol=1e-5)


def test_slices_of_a_fused_product_are_accepted() -> None:
    qkv = torch.randn(11, 3, 2, 16, generator=torch.Generator().manual_seed(1))
    q, k, v = qkv.unbind(1)
    out = attention_varlen(q, k, v, [4, 7], [4, 7])
    torch.testing.assert_close(out, one_by_one(q, k, v, [4, 7], [4, 7]).float())


def test_no_rows_give_no_rows() -> None:
    q, k, v = packed(0, 0)
    assert attention_varlen(q, k, v, [0, 0], [0, 0]).shape == (0, 2, 16)


def test_lengths_have_to_match_the_tensors() -> None:
    q, k, v = packed(5, 5)
    with pytest.raises(ValueError, match="add up to 4 queries"):
        attention_varlen(q, k, v, [4], [5])
    with pytest.raises(ValueError, match="2 query sequences and 1 key"):
        attention_varlen(q, k, v, [4, 1], [5])


def test_padding_is_bounded_and_every_query_appears_once() -> None:
    generator = torch.Generator().manual_seed(3)
    lengths = tuple(torch.randint(0, 512, (400,), generator=generator).tolist())
    batches = padded_batches(lengths, lengths, torch.device("cpu"))
    rows = torch.cat([batch.q_rows.flatten()[batch.real_queries] for batch in batches])
    assert torch.equal(rows.sort().values, torch.arange(sum(lengths)))
    assert sum(batch.q_rows.numel() for batch in batches) < 1.31 * sum(lengths)
    assert len(batches) < 40


@pytest.mark.gpu
@pytest.mark.parametrize("backend", list(Backend))
@pytest.mark.parametrize(("q_lengths", "k_lengths"), LENGTHS[:3])
def test_gpu_backends_agree(backend: Backend, q_lengths: list[int], k_lengths: list[int]) -> None:
    module = {Backend.XFORMERS: "xformers", Backend.FLASH_ATTN: "flash_attn"}.get(backend)
    if module is not None:
        pytest.importorskip(module)
    q, k, v = packed(sum(q_lengths), sum(k_lengths), device="cuda", dtype=torch.float16)
    choose_backend(backend.value, "cuda")
    try:
        out = attention_varlen(q, k, v, q_lengths, k_lengths)
    finally:
        choose_backend("sdpa", "cuda")
    expected = one_by_one(q, k, v, q_lengths, k_lengths).half()
    torch.testing.assert_close(out, expected, atol=2e-3, rtol=2e-3)
