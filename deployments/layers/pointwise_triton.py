"""Triton kernels behind deployments/layers/pointwise.py: one pass over memory for each step there.

Everything is computed in float32 whatever the tensors' dtype is. Rows are tokens or pixels,
channels lie side by side; callers make sure of that.
"""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 4096  # elements that a program holds at a time
_NORM_TILE = 1024  # the same of a layer norm
_NORM_LANE = 32  # elements of a thread: one warp holds most rows and sums them without a barrier


@triton.jit
def _channel_moments(
    x,
    means,
    squares,
    pixels,
    channels,
    joint,
    first,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Mean and sum of squared deviations of every channel over one chunk of pixels.

    Sums run over differences to the chunk's first pixel: they stay as small as the deviations are.
    """
    picture = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    chunks = tl.num_programs(1)
    column = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    known = column < channels
    start = chunk * ROWS
    row = tl.arange(0, ROWS)
    base = x + (picture * pixels + start) * channels + column
    inside = (start + row < pixels)[:, None] & known[None, :]
    # The whole chunk is asked for at once: a loop over parts of it would wait for each.
    values = tl.load(base[None, :] + row[:, None] * channels, mask=inside, other=0.0)
    pivot = tl.load(base, mask=known, other=0.0).to(tl.float32)
    apart = tl.where(inside, values.to(tl.float32) - pivot[None, :], 0.0)
    count = tl.minimum(ROWS, pixels - start).to(tl.float32)
    moved = tl.sum(apart, 0)
    out = (picture * chunks + chunk) * joint + first + column
    tl.store(means + out, pivot + moved / count, mask=known)
    tl.store(squares + out, tl.sum(apart * apart, 0) - moved * moved / count, mask=known)


@triton.jit
def _group_factors(
    means,
    squares,
    weight,
    bias,
    shift,
    factor,
    offset,
    pixels,
    channels,
    chunks,
    step,
    eps,
    ROWS: tl.constexpr,
    SHIFTED: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Moments of a group out of its channels' moments, turned into y = factor x + offset."""
    picture = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    width = channels // tl.num_programs(1)
    lane = tl.arange(0, BLOCK)
    column = group * width + lane
    chunk = tl.arange(0, CHUNKS)
    inside = (chunk < chunks)[:, None] & (lane < width)[None, :]
    place = (picture * chunks + chunk)[:, None] * channels + column[None, :]
    mean = tl.load(means + place, mask=inside, other=0.0)
    square = tl.load(squares + place, mask=inside, other=0.0)
    moved = tl.zeros([BLOCK], tl.float32)
    if SHIFTED:
        moved = tl.load(shift + picture * step + column, mask=lane < width, other=0.0)
        moved = moved.to(tl.float32)
        mean += moved[None, :]
    count = tl.where(inside, tl.minimum(ROWS, pixels - chunk * ROWS)[:, None], 0).to(tl.float32)
    total = (pixels * width).to(tl.float32)
    centre = tl.sum(tl.sum(mean * count, 1), 0) / total
    apart = tl.where(inside, mean - centre, 0.0)
    variance = tl.sum(tl.sum(square + count * apart * apart, 1), 0) / total
    scale = tl.load(weight + column, mask=lane < width, other=0.0).to(tl.float32)
    scale *= 1.0 / tl.sqrt(variance + eps)
    base = tl.load(bias + column, mask=lane < width, other=0.0).to(tl.float32)
    out = picture * channels + column
    tl.store(factor + out, scale, mask=lane < width)
    tl.store(offset + out, base + (moved - centre) * scale, mask=lane < width)


@triton.jit
def _scale_channels(
    x,
    out,
    factor,
    offset,
    pixels,
    channels,
    joint,
    first,
    SILU: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    picture = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    known = column < channels
    inside = (row < pixels)[:, None] & known[None, :]
    pixel = picture * pixels + row
    a = tl.load(factor + picture * joint + first + column, mask=known, other=0.0)
    b = tl.load(offset + picture * joint + first + column, mask=known, other=0.0)
    y = tl.load(x + pixel[:, None] * channels + column[None, :], mask=inside, other=0.0)
    y = y.to(tl.float32) * a[None, :] + b[None, :]
    if SILU:
        y = y * tl.sigmoid(y)
    tl.store(out + pixel[:, None] * joint + first + column[None, :], y, mask=inside)


def group_norm(
    parts: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    shift: Tensor | None,
    *,
    silu: bool,
) -> Tensor:
    """See ``pointwise.group_norm``; one tensor or two that stand side by side, channels last.

    Rows of ``shift`` may lie anywhere, also all in one place; channels of a row lie side by side.
    """
    layout = torch.channels_last if parts[0].ndim == 4 else torch.channels_last_3d
    parts = [part.contiguous(memory_format=layout) for part in parts]
    pictures, _, *space = parts[0].shape
    pixels, joint = math.prod(space), sum(part.shape[1] for part in parts)
    firsts = [0, parts[0].shape[1]][: len(parts)]
    block, rows = 64, 256
    chunks = triton.cdiv(pixels, rows)
    means = parts[0].new_empty(pictures, chunks, joint, dtype=torch.float32)
    squares = torch.empty_like(means)
    for part, first in zip(parts, firsts, strict=True):
        channels = part.shape[1]
        _channel_moments[(pictures, chunks, triton.cdiv(channels, block))](
            part,
            means,
            squares,
            pixels,
            channels,
            joint,
            first,
            ROWS=rows,
            BLOCK=block,
            num_warps=8,
        )
    factor = means.new_empty(pictures, joint)
    offset = torch.empty_like(factor)
    _group_factors[(pictures, groups)](
        means,
        squares,
        weight,
        bias,
        factor if shift is None else shift,
        factor,
        offset,
        pixels,
        joint,
        chunks,
        0 if shift is None else shift.stride(0),
        eps,
        ROWS=rows,
        SHIFTED=shift is not None,
        CHUNKS=triton.next_power_of_2(chunks),
        BLOCK=triton.next_power_of_2(joint // groups),
    )
    out = torch.empty(
        (pictures, joint, *space), dtype=parts[0].dtype, device=means.device, memory_format=layout
    )
    for part, first in zip(parts, firsts, strict=True):
        channels = part.shape[1]
        at_once = _TILE // block
        _scale_channels[(pictures, triton.cdiv(pixels, at_once), triton.cdiv(channels, block))](
            part,
            out,
            factor,
            offset,
            pixels,
            channels,
            joint,
            first,
            SILU=silu,
            ROWS=at_once,
            BLOCK=block,
        )
    return out


@triton.jit
def _add_scaled(
    h,
    vector,
    more,
    x,
    out,
    rows,
    channels,
    ADD: tl.constexpr,
    MORE: tl.constexpr,
    GATED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """x + h + vector, x + vector h, or without ADD h + vector; ``more`` joins the vector."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    known = column < channels
    inside = (row < rows)[:, None] & known[None, :]
    place = row[:, None] * channels + column[None, :]
    v = tl.load(vector + column, mask=known, other=0.0).to(tl.float32)
    if MORE:
        v += tl.load(more + column, mask=known, other=0.0).to(tl.float32)
    y = tl.load(h + place, mask=inside, other=0.0).to(tl.float32)
    if GATED:
        y = y * v[None, :]
    else:
        y += v[None, :]
    if ADD:
        y += tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, y, mask=inside)


def add_bias(h: Tensor, bias: Tensor, x: Tensor, more: Tensor | None = None) -> Tensor:
    """See ``pointwise.add_bias``."""
    h, x = (t.contiguous(memory_format=torch.channels_last) for t in (h, x))
    return _add(h, bias, x, torch.empty_like(x), channels=x.shape[1], gated=False, more=more)


def bias_in_place(x: Tensor, bias: Tensor) -> None:
    """See ``pointwise.bias_in_place``; ``x`` is (..., C) contiguous."""
    _add(x, bias, None, x, channels=x.shape[-1], gated=False)


def add_gated(x: Tensor, h: Tensor, gate: Tensor) -> Tensor:
    """See ``pointwise.add_gated``."""
    x = x.contiguous()
    out = torch.empty_like(x)
    return _add(h.contiguous(), gate, x, out, channels=x.shape[-1], gated=True)


def _add(
    h: Tensor,
    vector: Tensor,
    x: Tensor | None,
    out: Tensor,
    *,
    channels: int,
    gated: bool,
    more: Tensor | None = None,
) -> Tensor:
    block, rows = 64, h.numel() // channels
    grid = (triton.cdiv(rows, _TILE // block), triton.cdiv(channels, block))
    _add_scaled[grid](
        h,
        vector,
        vector if more is None else more,
        h if x is None else x,
        out,
        rows,
        channels,
        ADD=x is not None,
        MORE=more is not None,
        GATED=gated,
        ROWS=_TILE // block,
        BLOCK=block,
    )
    return out


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
    v = v / length[:, None] * g.to(tl.float32) * tl.sqrt(dim.to(tl.float32))
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
    channels,
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
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Numbers of tokens are on 32 bits: where they are divided, 64 cost more than all the rest.
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    known = column < channels
    wanted = n < tokens
    target = n
    if OUT_ROWWISE:
        target = _rowwise_place(n, size, views)
        wanted = (target >= 0) & (n < tokens)
    inside = wanted[:, None] & known[None, :]
    place = n.to(tl.int64)[:, None] * channels + column[None, :]
    v = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if SHIFTED:
        v += tl.load(shift + column, mask=known, other=0.0).to(tl.float32)[None, :]
    if ADD:
        source = n
        there = wanted
        if ADD_ROWWISE:
            source = _rowwise_place(n, size, views)
            there = (source >= 0) & wanted
        if BLANK:
            source = n - first
            there = (source >= 0) & wanted
        r = tl.load(
            h + source.to(tl.int64)[:, None] * channels + column[None, :],
            mask=there[:, None] & known[None, :],
            other=0.0,
        ).to(tl.float32)
        if BLANK:
            instead = tl.load(blank + column, mask=known, other=0.0).to(tl.float32)
            r = tl.where((source < 0)[:, None], instead[None, :], r)
        if GATED:
            g = tl.load(gate + column, mask=known, other=0.0).to(tl.float32)
            r = r * g[None, :]
        v += r
        rounded = v.to(y.dtype.element_ty)
        tl.store(y + place, rounded, mask=inside)
        v = rounded.to(tl.float32)
    mean = tl.sum(v, 1) / channels
    apart = tl.where(inside, v - mean[:, None], 0.0)
    v = apart / tl.sqrt(tl.sum(apart * apart, 1) / channels + eps)[:, None]
    w = tl.load(weight + column, mask=known, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=known, other=0.0).to(tl.float32)
    if MODULATED:
        w += 1.0  # the scale of a modulation counts from one
    v = v * w[None, :] + b[None, :]
    tl.store(out + target.to(tl.int64)[:, None] * channels + column[None, :], v, mask=inside)


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
    size = int(x.shape[1] ** 0.5) if views else 1
    kept = tokens // views * 4 if out_rowwise else tokens
    out = x.new_empty(kept, channels)
    y = x if h is None else torch.empty_like(x)
    block = triton.next_power_of_2(channels)
    rows = max(1, _NORM_TILE // block)
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
        channels,
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
        ROWS=rows,
        BLOCK=block,
        num_warps=max(1, min(16, rows * block // (32 * _NORM_LANE))),
    )
    if out_rowwise:
        return y, out.view(-1, 2, size, 4, size, channels)
    return y, out.view(x.shape)
