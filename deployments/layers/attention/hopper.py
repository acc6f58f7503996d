"""Attention over long sequences with 64 channels a head, by a kernel of ours made for Hopper.

cuDNN's kernel is bound by the exponentials there; ours spreads them over two kinds of units.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deployments.layers.hopper_trial import expect_close, wave
from deployments.layers.hopper_trial import takes as works
from deployments.layers.pointwise import takes_kernels

_DIM = 64
_KEYS_AT_A_TIME = 128
_QUERIES_AT_A_TIME = 192  # of a program
_FEWEST_KEYS = 4608
_FEWEST_PROGRAMS = 2400


def takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether ``attention`` computes these: (B, T, H, D), (B, S, H, D) twice."""
    return (
        takes_kernels(q)
        and q.dtype in (torch.float16, torch.bfloat16)
        and q.shape[-1] == _DIM
        and k.shape[1] % _KEYS_AT_A_TIME == 0
        and is_faster(q.shape[0], q.shape[1], k.shape[1], q.shape[2])
        and works(q, "attention over long sequences", _trial)
        and all(_evenly_apart(x) for x in (q, k, v))
    )


def is_faster(items: int, queries: int, keys: int, heads: int) -> bool:
    """Whether the kernel was measured faster than cuDNN's at this size or a smaller one.

    H200, items x tokens x heads: 10 x 18432 x 5 (4800 programs) takes 7.96 ms against 8.58 and
    10 x 4608 x 10 (2400) 1.09 against 1.14; but 10 x 1152 x 20 (1200) .175 against .160 and
    2 x 4096 x 16 (704, a few for each of the 132 multiprocessors) .312 against .295. Nothing in
    between has been measured, so the smaller of the two that won is the limit in both respects.
    """
    programs = items * heads * -(-queries // _QUERIES_AT_A_TIME)
    return keys >= _FEWEST_KEYS and programs >= _FEWEST_PROGRAMS


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax(q k^T / sqrt(D)) v for what ``takes`` accepts; returns (B, T, H, D)."""
    from deployments.layers.attention import hopper_gluon

    return hopper_gluon.attention(q, k, v)


def _trial(device: torch.device, dtype: torch.dtype) -> None:
    tokens = 2 * _KEYS_AT_A_TIME
    qkv = wave(tokens * 3 * _DIM, device, dtype).view(1, tokens, 3, 1, _DIM)
    q, k, v = qkv.unbind(2)
    a, b, c = (x.float().transpose(1, 2) for x in (q, k, v))
    expect_close(attention(q, k, v), F.scaled_dot_product_attention(a, b, c).transpose(1, 2))


def _evenly_apart(x: Tensor) -> bool:
    """Whether all tokens of all items are the rows of one matrix, aligned to 16 bytes."""
    row = x.stride(1)
    return (
        x.stride()[2:] == (_DIM, 1)
        and (x.shape[0] == 1 or x.stride(0) == x.shape[1] * row)
        and row % 8 == 0
        and x.data_ptr() % 16 == 0
    )
