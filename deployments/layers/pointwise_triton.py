"""Triton kernels behind deployments/layers/pointwise.py: one pass over memory for each step there.

The norms have files of their own (layer_norm_triton.py, group_norm_triton.py).

Everything is computed in float32 whatever the tensors' dtype is. Rows are tokens or pixels,
channels lie side by side; callers make sure of that.
"""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 4096  # elements that a program holds at a time


@triton.jit
def _add_scaled(
    h,
    vector,
    x,
    out,
    rows,
    channels,
    GATED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """h + vector, or with GATED x + vector h."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    known = column < channels
    inside = (row < rows)[:, None] & known[None, :]
    place = row[:, None] * channels + column[None, :]
    v = tl.load(vector + column, mask=known, other=0.0).to(tl.float32)
    y = tl.load(h + place, mask=inside, other=0.0).to(tl.float32)
    if GATED:
        y = y * v[None, :] + tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    else:
        y += v[None, :]
    tl.store(out + place, y, mask=inside)


def bias_in_place(x: Tensor, bias: Tensor) -> None:
    """See ``pointwise.bias_in_place``; ``x`` is (..., C) contiguous."""
    _add(x, bias, x, x, gated=False)


def add_gated(x: Tensor, h: Tensor, gate: Tensor) -> Tensor:
    """See ``pointwise.add_gated``."""
    x = x.contiguous()
    out = torch.empty_like(x)
    _add(h.contiguous(), gate, x, out, gated=True)
    return out


def _add(h: Tensor, vector: Tensor, x: Tensor, out: Tensor, *, gated: bool) -> None:
    block, channels = 64, h.shape[-1]
    rows = h.numel() // channels
    grid = (triton.cdiv(rows, _TILE // block), triton.cdiv(channels, block))
    _add_scaled[grid](
        h, vector, x, out, rows, channels, GATED=gated, ROWS=_TILE // block, BLOCK=block
    )


@triton.jit
def _head_rms_norm(
    x, gamma, out, rows, heads, dim, stride, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < dim)[None, :]
    token = row // heads  # on 32 bits: a division on 64 is a hundred instructions
    head = row % heads
    source = (token.to(tl.int64) * stride + head * dim)[:, None] + column[None, :]
    v = tl.load(x + source, mask=inside, other=0.0).to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(v * v, 1)), 1e-12)
    known = (column < dim)[None, :]
    g = tl.load(gamma + (head * dim)[:, None] + column[None, :], mask=known, other=0.0)
    v = v * (tl.sqrt(dim.to(tl.float32)) / length)[:, None] * g.to(tl.float32)
    tl.store(out + row.to(tl.int64)[:, None] * dim + column[None, :], v, mask=inside)


def head_rms_norm(x: Tensor, gamma: Tensor) -> Tensor:
    """See ``pointwise.head_rms_norm``; heads of a token lie side by side, tokens evenly apart."""
    heads, dim = x.shape[-2:]
    block = triton.next_power_of_2(dim)
    rows = x.numel() // dim
    at_once = _TILE // 2 // block
    out = x.new_empty(x.shape)
    _head_rms_norm[(triton.cdiv(rows, at_once),)](
        x, gamma, out, rows, heads, dim, x.stride(-3), ROWS=at_once, BLOCK=block
    )
    return out
