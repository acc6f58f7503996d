"""Triton kernels behind ``pointwise.geglu`` and ``pointwise.linear_geglu``."""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

_TILE = 2048  # elements of the output that a program of the elementwise kernel holds
_ROWS, _COLUMNS, _DEPTH = 128, 64, 64  # of a program of the product


@triton.jit
def _gelu(g):
    """GELU in its exact form: g Phi(g) = max(g, 0) - |g| erfc(|g| / sqrt 2) / 2.

    Abramowitz and Stegun, 7.1.26: erfc to 1.5e-7, in half the instructions of the library's.
    """
    size = tl.abs(g)
    t = 1.0 / (1.0 + 0.23164188749 * size)  # 0.3275911 / sqrt 2
    tail = 1.061405429
    tail = tail * t - 1.453152027
    tail = tail * t + 1.421413741
    tail = tail * t - 0.284496736
    tail = tail * t + 0.254829592
    tail = tail * t * tl.exp2(g * g * -0.7213475204444817)  # exp(-g^2 / 2)
    return tl.maximum(g, 0.0) - 0.5 * size * tail


@triton.jit
def _geglu(h, out, rows, hidden, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < hidden)[None, :]
    start = h + row[:, None] * (2 * hidden) + column[None, :]
    a = tl.load(start, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(start + hidden, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row[:, None] * hidden + column[None, :], a * _gelu(g), mask=inside)


def geglu(h: Tensor) -> Tensor:
    """See ``pointwise.geglu``."""
    hidden = h.shape[-1] // 2
    rows = h.numel() // (2 * hidden)
    out = h.new_empty(*h.shape[:-1], hidden)
    widest = min(1024, hidden & -hidden)  # whole blocks, if they are not too narrow
    block = widest if widest >= 64 else min(1024, triton.next_power_of_2(hidden))
    at_once = _TILE // block
    grid = (triton.cdiv(rows, at_once), triton.cdiv(hidden, block))
    _geglu[grid](h, out, rows, hidden, ROWS=at_once, BLOCK=block)
    return out


@triton.jit
def _linear_geglu(
    x,
    weight,
    bias,
    out,
    rows,
    channels,
    hidden,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """A tile of both halves of the product in registers: what is stored is gated already.

    Programs go down ``GROUP`` tiles of rows before they go to the next columns, so that those that
    run together share tiles of both operands in the cache. Descriptors give zeros outside.
    """
    number = tl.program_id(0)
    in_group = GROUP * tl.cdiv(hidden, COLUMNS)
    first = number // in_group * GROUP
    tall = tl.minimum(tl.cdiv(rows, ROWS) - first, GROUP)
    row = (first + number % in_group % tall) * ROWS
    column = number % in_group // tall * COLUMNS
    a = tl.zeros([ROWS, COLUMNS], tl.float32)
    g = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, channels, DEPTH):
        tokens = x.load([row, start])
        of_a = weight.load([column, start])
        of_g = weight.load([hidden + column, start])
        a = tl.dot(tokens, of_a.T, a, input_precision="ieee")
        g = tl.dot(tokens, of_g.T, g, input_precision="ieee")
    lane = column + tl.arange(0, COLUMNS)
    there = lane < hidden
    a += tl.load(bias + lane, mask=there, other=0.0).to(tl.float32)[None, :]
    g += tl.load(bias + hidden + lane, mask=there, other=0.0).to(tl.float32)[None, :]
    out.store([row, column], (a * _gelu(g)).to(bias.dtype.element_ty))


def linear_geglu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See ``pointwise.linear_geglu``."""
    x = x.contiguous()
    hidden, channels = weight.shape[0] // 2, weight.shape[1]
    out = x.new_empty(*x.shape[:-1], hidden)
    rows = x.numel() // channels
    described = [
        TensorDescriptor(tensor, list(tensor.shape), [tensor.stride(0), 1], block)
        for tensor, block in (
            (x.view(rows, channels), [_ROWS, _DEPTH]),
            (weight, [_COLUMNS, _DEPTH]),
            (out.view(rows, hidden), [_ROWS, _COLUMNS]),
        )
    ]
    _linear_geglu[(triton.cdiv(rows, _ROWS) * triton.cdiv(hidden, _COLUMNS),)](
        described[0],
        described[1],
        bias,
        described[2],
        rows,
        channels,
        hidden,
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
        DEPTH=_DEPTH,
        GROUP=8,
        num_stages=3,
        num_warps=4,
    )
    return out
