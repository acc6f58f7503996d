"""The Triton kernel behind ``pointwise.mean_into``: two strided tensors, one of them in place."""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_TILE = 2048  # elements that a program holds at a time


@triton.jit
def _mean_into(
    x,
    y,
    rows,
    channels,
    x_a,
    x_b,
    x_h,
    x_w,
    y_a,
    y_b,
    y_h,
    y_w,
    B: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < channels)[None, :]
    w, h, b, a = row % W, (row // W) % H, (row // (W * H)) % B, (row // (W * H * B)).to(tl.int64)
    to = x + (a * x_a + b * x_b + h * x_h + w * x_w)[:, None] + column[None, :]
    of = y + (a * y_a + b * y_b + h * y_h + w * y_w)[:, None] + column[None, :]
    mean = tl.load(to, mask=inside, other=0.0).to(tl.float32)
    mean = 0.5 * (mean + tl.load(of, mask=inside, other=0.0).to(tl.float32))
    tl.store(to, mean, mask=inside)


def mean_into(x: Tensor, y: Tensor) -> None:
    """See ``pointwise.mean_into``."""
    _, b, h, w, channels = x.shape
    rows = x.numel() // channels
    block = triton.next_power_of_2(channels)
    at_once = max(1, _TILE // block)
    _mean_into[(triton.cdiv(rows, at_once),)](
        x,
        y,
        rows,
        channels,
        *x.stride()[:4],
        *y.stride()[:4],
        B=b,
        H=h,
        W=w,
        ROWS=at_once,
        BLOCK=block,
    )
