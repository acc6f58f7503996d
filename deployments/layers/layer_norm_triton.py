"""The Triton kernel behind the layer norms of deployments/layers/pointwise.py, alone or with a sum.

A row is read in pieces of one width, the largest power of two that divides it (320 = 5 x 64): one
tile of the next power of two would leave three of eight lanes without work at the UNet's widths,
and a norm by itself takes little less time for its arithmetic than for memory. Everything that is
read is asked for before anything is written. Computed in float32 whatever the tensors' dtype is.
"""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator, assignment, var-annotated"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_PIECE = 256  # elements of one piece of all rows of a warp: 8 a thread, 16 bytes in half
_MOST_PIECES = 8
_WARPS = 4  # each holds rows of its own and sums them without a barrier


@triton.jit
def _rowwise_place(n, size, views):
    """Token number in (G, V, 2, S, S) order -> in (G, 2, S, 4, S) order; -1 in the face view."""
    column = n % size
    row = (n // size) % size
    domain = (n // (size * size)) % 2
    view = (n // (2 * size * size)) % views
    branch = n // (2 * size * size * views)
    place = (((branch * 2 + domain) * size + row) * 4 + view) * size + column
    return tl.where(view < 4, place, -1)


@triton.jit
def _vector(vector, n, column, CHANNELS: tl.constexpr):
    """A piece of a vector beside every row: so a thread reads what it uses, 16 bytes at once.

    Read once, it would be spread over the threads differently and go through shared memory.
    """
    place = (n * 0)[:, None] + column[None, :]
    return tl.load(vector + place, mask=place < CHANNELS, other=0.0)


@triton.jit
def _read(
    x,
    h,
    gate,
    shift,
    blank,
    n,
    source,
    wanted,
    column,
    CHANNELS: tl.constexpr,
    ADD: tl.constexpr,
    GATED: tl.constexpr,
    SHIFTED: tl.constexpr,
    BLANK: tl.constexpr,
):
    """One piece of x + shift + gate h, rounded as it will be stored."""
    known = column < CHANNELS
    inside = wanted[:, None] & known[None, :]
    v = tl.load(x + n.to(tl.int64)[:, None] * CHANNELS + column[None, :], mask=inside, other=0.0)
    v = v.to(tl.float32)
    if SHIFTED:
        v += _vector(shift, n, column, CHANNELS).to(tl.float32)
    if ADD:
        place = source.to(tl.int64)[:, None] * CHANNELS + column[None, :]
        there = (wanted & (source >= 0))[:, None] & known[None, :]
        r = tl.load(h + place, mask=there, other=0.0).to(tl.float32)
        if BLANK:
            instead = _vector(blank, n, column, CHANNELS).to(tl.float32)
            r = tl.where((source < 0)[:, None], instead, r)
        if GATED:
            r = r * _vector(gate, n, column, CHANNELS).to(tl.float32)
        v = (v + r).to(x.dtype.element_ty).to(tl.float32)
    return v


@triton.jit
def _write(out, n, wanted, column, v, CHANNELS: tl.constexpr):
    inside = wanted[:, None] & (column < CHANNELS)[None, :]
    tl.store(out + n.to(tl.int64)[:, None] * CHANNELS + column[None, :], v, mask=inside)


@triton.jit
def _add_norm(
    x,
    h,
    y,
    out,
    weight,
    bias,
    gate,
    shift,
    blank,
    tokens,
    size,
    views,
    first,
    eps,
    ADD: tl.constexpr,
    GATED: tl.constexpr,
    SHIFTED: tl.constexpr,
    BLANK: tl.constexpr,
    MODULATED: tl.constexpr,
    ADD_ROWWISE: tl.constexpr,
    OUT_ROWWISE: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    PIECES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    # Numbers of tokens are on 32 bits: where they are divided, 64 cost more than all the rest.
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    wanted = n < tokens
    target = n
    source = n
    if OUT_ROWWISE:
        target = _rowwise_place(n, size, views)
        wanted = (target >= 0) & wanted
    if ADD_ROWWISE:
        source = _rowwise_place(n, size, views)
    if BLANK:
        source = n - first
    lane = tl.arange(0, WIDTH)
    v = ()
    scales = ()
    total = tl.zeros([ROWS, WIDTH], tl.float32)
    for piece in tl.static_range(PIECES):
        column = piece * WIDTH + lane
        part = _read(
            x,
            h,
            gate,
            shift,
            blank,
            n,
            source,
            wanted,
            column,
            CHANNELS,
            ADD,
            GATED,
            SHIFTED,
            BLANK,
        )
        v += (part,)
        scales += ((_vector(weight, n, column, CHANNELS), _vector(bias, n, column, CHANNELS)),)
        total += part
    mean = (tl.sum(total, 1) / CHANNELS)[:, None]
    square = tl.zeros([ROWS, WIDTH], tl.float32)
    for piece in tl.static_range(PIECES):
        column = piece * WIDTH + lane
        if ADD:
            _write(y, n, wanted, column, v[piece], CHANNELS)
        apart = v[piece] - mean
        if PIECES * WIDTH > CHANNELS:
            apart = tl.where((column < CHANNELS)[None, :], apart, 0.0)
        square += apart * apart
    scale = (1.0 / tl.sqrt(tl.sum(square, 1) / CHANNELS + eps))[:, None]
    for piece in tl.static_range(PIECES):
        w = scales[piece][0].to(tl.float32)
        if MODULATED:
            w += 1.0  # the scale of a modulation counts from one
        b = scales[piece][1].to(tl.float32)
        normed = (v[piece] - mean) * scale * w + b
        _write(out, target, wanted, piece * WIDTH + lane, normed, CHANNELS)


def add_norm(
    x: Tensor,
    h: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    gate: Tensor | None = None,
    shift: Tensor | None = None,
    blank: Tensor | None = None,
    modulated: bool = False,
    views: int = 0,
    add_rowwise: bool = False,
    out_rowwise: bool = False,
) -> tuple[Tensor, Tensor]:
    """x + shift + gate h and its layer norm; see ``pointwise`` for the forms of it.

    ``x`` is (..., C) contiguous. ``weight`` and ``bias`` are (C,): gains, or scale and shift of a
    modulation. With ``add_rowwise`` ``h`` is in the order of the row-wise attention and has no rows
    for the face view, with ``out_rowwise`` the norm is returned in that order. With ``blank`` (C,)
    ``h`` may lack rows at its start. Without ``h`` the sum is not stored, and ``x`` is returned.
    """
    x = x.contiguous()
    channels = x.shape[-1]
    tokens = x.numel() // channels
    kept = tokens // views * 4 if out_rowwise else tokens
    out = x.new_empty(kept, channels)
    y = x if h is None else torch.empty_like(x)
    width = min(_PIECE, channels & -channels)
    if channels > _MOST_PIECES * width:
        width = triton.next_power_of_2(channels)
    warps = _WARPS if width <= _PIECE else min(8, width // _PIECE)
    rows = max(1, _WARPS * _PIECE // width)
    size = int(x.shape[1] ** 0.5) if views else 1
    _add_norm[(triton.cdiv(tokens, rows),)](
        x,
        x if h is None else h.contiguous(),
        y,
        out,
        weight,
        bias,
        weight if gate is None else gate,
        weight if shift is None else shift,
        weight if blank is None else blank,
        tokens,
        size,
        max(views, 1),
        0 if blank is None or h is None else tokens - h.numel() // channels,
        eps,
        ADD=h is not None,
        GATED=gate is not None,
        SHIFTED=shift is not None,
        BLANK=blank is not None,
        MODULATED=modulated,
        ADD_ROWWISE=add_rowwise,
        OUT_ROWWISE=out_rowwise,
        CHANNELS=channels,
        ROWS=rows,
        PIECES=triton.cdiv(channels, width),
        WIDTH=width,
        num_warps=warps,
    )
    if out_rowwise:
        return y, out.view(-1, 2, size, 4, size, channels)
    return y, out.view(x.shape)
