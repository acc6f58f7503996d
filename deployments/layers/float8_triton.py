"""The Triton kernel behind deployments/layers/float8.py."""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from deployments.layers.float8 import FLOAT8, LARGEST, LEAST


@triton.jit
def _quantise_rows(
    x,
    out,
    scales,
    rows,
    channels,
    least,
    largest,
    GELU: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Rows stay in registers between the search for the largest value and the division by it."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < channels)[None, :]
    place = row[:, None] * channels + column[None, :]
    v = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if GELU:
        u = 0.7978845608028654 * (v + 0.044715 * v * v * v)
        v = v * tl.sigmoid(2.0 * u)  # (1 + tanh u) / 2
    scale = tl.maximum(tl.max(tl.abs(v), 1), least) / largest
    tl.store(scales + row, scale, mask=row < rows)
    v = v / scale[:, None]
    tl.store(out + place, v.to(out.dtype.element_ty), mask=inside)


def quantise_rows(x: Tensor, *, gelu: bool) -> tuple[Tensor, Tensor]:
    """See ``float8.quantise_rows``."""
    x = x.contiguous()
    rows, channels = x.shape
    out = torch.empty_like(x, dtype=FLOAT8)
    scales = x.new_empty(rows, 1, dtype=torch.float32)
    block = triton.next_power_of_2(channels)
    at_once = max(1, 4096 // block)
    _quantise_rows[(triton.cdiv(rows, at_once),)](
        x,
        out,
        scales,
        rows,
        channels,
        LEAST,
        LARGEST,
        GELU=gelu,
        ROWS=at_once,
        BLOCK=block,
        num_warps=8,
    )
    return out, scales
