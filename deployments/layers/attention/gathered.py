"""Attention in which every query has a few keys of its own, picked from a shared set."""

from __future__ import annotations

import torch
from torch import Tensor

from deployments.layers.attention.dense import attention
from deployments.layers.pointwise import takes_kernels


def gathered_attention(q: Tensor, k: Tensor, v: Tensor, picks: Tensor) -> Tensor:
    """Softmax(q k^T / sqrt(D)) v over the keys that each query picks.

    ``q`` is (B, T, H, D), ``k`` and ``v`` (B, P, H, D), ``picks`` (T, K) int32 with values below P.
    Returns (B, T, H, D). Made for a handful of keys: a matrix kernel would work on tiles of 128
    queries that hold one each, and the picked keys would have to be written out before.
    """
    if takes_kernels(q):
        from deployments.layers.attention import gathered_triton

        return gathered_triton.gathered_attention(q, k, v, picks)
    rows = picks.flatten()
    k, v = (x.index_select(1, rows).unflatten(1, picks.shape).flatten(0, 1) for x in (k, v))
    out = attention(q.flatten(0, 1)[:, None], k, v)  # (B T, 1, H, D)
    return out.view(q.shape)


def as_picks(numbers: Tensor) -> Tensor:
    """Numbers of keys (T, K) in the type that ``gathered_attention`` takes."""
    return numbers.to(torch.int32).contiguous()
