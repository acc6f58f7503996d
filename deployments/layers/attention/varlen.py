"""Attention over packed sequences of different lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from deployments.layers.attention.backend import Backend, current_backend
from deployments.layers.attention.dense import attention
from deployments.layers.attention.padding import padded_batches

_HALF = (torch.float16, torch.bfloat16)
Kernel = Callable[[Tensor, Tensor, Tensor, tuple[int, ...], tuple[int, ...]], Tensor]


def attention_varlen(
    q: Tensor, k: Tensor, v: Tensor, q_lengths: Sequence[int], k_lengths: Sequence[int]
) -> Tensor:
    """Softmax(q k^T / sqrt(D)) v inside every sequence.

    ``q`` is (N, H, D), ``k`` and ``v`` (M, H, D): sequence i owns the next ``q_lengths[i]`` rows of
    the queries and ``k_lengths[i]`` rows of the keys. Rows of a sequence without keys come back as
    zero. Returns (N, H, D) in the dtype of ``q``.
    """
    q_counts, k_counts = tuple(q_lengths), tuple(k_lengths)
    if len(q_counts) != len(k_counts):
        raise ValueError(f"{len(q_counts)} query sequences and {len(k_counts)} key sequences")
    if sum(q_counts) != q.shape[0] or sum(k_counts) != k.shape[0]:
        raise ValueError(
            f"lengths add up to {sum(q_counts)} queries and {sum(k_counts)} keys,"
            f" the tensors hold {q.shape[0]} and {k.shape[0]}"
        )
    if not q_counts or 0 in (q.shape[0], k.shape[0]):
        return torch.zeros_like(q)
    if len({*q_counts}) == 1 and len({*k_counts}) == 1:  # equal lengths: a reshape makes a batch
        q, k, v = (x.reshape(len(q_counts), -1, *x.shape[1:]) for x in (q, k, v))
        return attention(q, k, v).flatten(0, 1)
    return _kernel(q)(q, k, v, q_counts, k_counts)


def _kernel(q: Tensor) -> Kernel:
    """The variable-length form of the chosen backend, where it takes such tensors."""
    if not q.is_cuda or q.dtype not in _HALF:
        return _padded
    backend = current_backend()
    if backend is Backend.FLASH_ATTN:
        return _flash_attn
    if backend is Backend.XFORMERS:
        return _xformers
    return _torch_varlen if _torch_has_varlen(q.device) else _padded


def _padded(
    q: Tensor, k: Tensor, v: Tensor, q_lengths: tuple[int, ...], k_lengths: tuple[int, ...]
) -> Tensor:
    """Masked dense attention over a few batches of padded sequences; runs everywhere."""
    out = torch.zeros_like(q)
    for batch in padded_batches(q_lengths, k_lengths, q.device):
        dense = torch.nn.functional.scaled_dot_product_attention(
            q[batch.q_rows].transpose(1, 2),  # (B, H, Tq, D)
            k[batch.k_rows].transpose(1, 2),
            v[batch.k_rows].transpose(1, 2),
            attn_mask=batch.k_mask,
        )
        rows = dense.transpose(1, 2).flatten(0, 1)  # (B Tq, H, D)
        out[batch.q_rows.flatten()[batch.real_queries]] = rows[batch.real_queries]
    return out


def _flash_attn(
    q: Tensor, k: Tensor, v: Tensor, q_lengths: tuple[int, ...], k_lengths: tuple[int, ...]
) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    offsets = _offsets(q_lengths, q.device), _offsets(k_lengths, q.device)
    out: Tensor = flash_attn_varlen_func(q, k, v, *offsets, max(q_lengths), max(k_lengths))
    return out


def _xformers(
    q: Tensor, k: Tensor, v: Tensor, q_lengths: tuple[int, ...], k_lengths: tuple[int, ...]
) -> Tensor:
    from xformers.ops import memory_efficient_attention

    mask = _block_diagonal_mask(q_lengths, k_lengths, q.device)
    out: Tensor = memory_efficient_attention(q[None], k[None], v[None], attn_bias=mask)
    return out[0]


def _torch_varlen(
    q: Tensor, k: Tensor, v: Tensor, q_lengths: tuple[int, ...], k_lengths: tuple[int, ...]
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    offsets = _offsets(q_lengths, q.device), _offsets(k_lengths, q.device)
    out = varlen_attn(q, k, v, *offsets, max(q_lengths), max(k_lengths))
    assert isinstance(out, Tensor)
    return out


@lru_cache(maxsize=8)
def _torch_has_varlen(device: torch.device) -> bool:
    """torch 2.10 brought a variable-length flash kernel of its own, for Ampere and later."""
    try:
        import torch.nn.attention.varlen
    except ImportError:
        return False
    return torch.cuda.get_device_capability(device)[0] >= 8


@lru_cache(maxsize=16)
def _block_diagonal_mask(
    q_lengths: tuple[int, ...], k_lengths: tuple[int, ...], device: torch.device
) -> Any:
    from xformers.ops.fmha import BlockDiagonalMask

    return BlockDiagonalMask.from_seqlens(list(q_lengths), list(k_lengths), device=device)


@lru_cache(maxsize=64)
def _offsets(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """First row of every sequence and the total, (S + 1,) int32."""
    return torch.tensor((0, *lengths)).cumsum(0).to(device=device, dtype=torch.int32)
