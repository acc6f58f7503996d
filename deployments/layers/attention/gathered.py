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
    if torch.is_grad_enabled():
        return _masked_attention(q, k, v, picks)
    rows = picks.flatten()
    k, v = (x.index_select(1, rows).unflatten(1, picks.shape).flatten(0, 1) for x in (k, v))
    out = attention(q.flatten(0, 1)[:, None], k, v)  # (B T, 1, H, D)
    return out.view(q.shape)


def _masked_attention(q: Tensor, k: Tensor, v: Tensor, picks: Tensor) -> Tensor:
    """The same over all keys, with the logarithm of how often a query picks each as a bias.

    For training: it spends products, which cost nothing at a few hundred keys, to have no sequence
    of one query each and no scattered sums in the backward pass.
    """
    counts = torch.zeros(len(picks), k.shape[1], dtype=torch.float32, device=q.device)
    ones = torch.ones_like(picks, dtype=torch.float32)
    bias = counts.scatter_add(1, picks.long(), ones).log().to(q.dtype)  # (T, P), -inf: not picked
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, D)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias  # (B, H, T, P)
    return (scores.softmax(-1) @ v).transpose(1, 2)


def as_picks(numbers: Tensor) -> Tensor:
    """Numbers of keys (T, K) in the type that ``gathered_attention`` takes."""
    return numbers.to(torch.int32).contiguous()
