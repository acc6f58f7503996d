"""Attention over long sequences with 64 channels a head, by a kernel of ours made for Hopper.

cuDNN's kernel is bound by the exponentials there; ours spreads them over two kinds of units.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from deployments.layers.pointwise import takes_kernels

_DIM = 64
_KEYS_AT_A_TIME = 128
_FEWEST_KEYS = 8192  # below, cuDNN was as fast or faster
_wanted = False


def use_hopper_kernel(wanted: bool) -> None:
    """Choose for the process whether the kernel takes over where it can."""
    global _wanted
    _wanted = wanted


def takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether ``attention`` computes these: (B, T, H, D), (B, S, H, D) twice."""
    return (
        _wanted
        and takes_kernels(q)
        and q.dtype in (torch.float16, torch.bfloat16)
        and q.shape[-1] == _DIM
        and k.shape[1] >= _FEWEST_KEYS
        and k.shape[1] % _KEYS_AT_A_TIME == 0
        and all(_evenly_apart(x) for x in (q, k, v))
        and _available(q.device)
    )


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax(q k^T / sqrt(D)) v for what ``takes`` accepts; returns (B, T, H, D)."""
    from deployments.layers.attention import hopper_gluon

    return hopper_gluon.attention(q, k, v)


def _evenly_apart(x: Tensor) -> bool:
    """Whether all tokens of all items are the rows of one matrix, aligned to 16 bytes."""
    row = x.stride(1)
    return (
        x.stride()[2:] == (_DIM, 1)
        and (x.shape[0] == 1 or x.stride(0) == x.shape[1] * row)
        and row % 8 == 0
        and x.data_ptr() % 16 == 0
    )


@lru_cache(maxsize=8)
def _available(device: torch.device) -> bool:
    gluon = find_spec("triton") is not None and find_spec("triton.experimental.gluon") is not None
    return gluon and torch.cuda.get_device_capability(device) == (9, 0)
