"""Attention over dense batches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from deployments.layers.attention import hopper
from deployments.layers.attention.backend import Backend, current_backend, sdpa_by_name

# In this order SDPA prefers cuDNN's kernel, which is the fastest on Hopper for any length.
_SDPA_ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
_prefers_cudnn = True


def prefer_cudnn(wanted: bool) -> None:
    """Choose for the process whether SDPA tries cuDNN's kernel first (training may not)."""
    global _prefers_cudnn
    _prefers_cudnn = wanted


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax(q k^T / sqrt(D)) v.

    ``q`` is (B, T, H, D), ``k`` and ``v`` (B, S, H, D) with any strides: heads are never moved in
    memory here, so a slice of a fused qkv product is as good as a tensor of its own. Returns
    (B, T, H, D) in the dtype of ``q``.
    """
    backend = current_backend()
    if backend is not Backend.SDPA and q.is_cuda and q.dtype in (torch.float16, torch.bfloat16):
        if backend is Backend.FLASH_ATTN:
            from flash_attn import flash_attn_func

            return flash_attn_func(q, k, v)
        from xformers.ops import memory_efficient_attention

        return memory_efficient_attention(q, k, v)
    if not sdpa_by_name() and hopper.takes(q, k, v):
        return hopper.attention(q, k, v)
    return sdpa(q, k, v)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same by torch's kernels alone."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, D) as strided views
    if q.is_cuda and _prefers_cudnn:
        with sdpa_kernel(_SDPA_ORDER, set_priority=True):
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
