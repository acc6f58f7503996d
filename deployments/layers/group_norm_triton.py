"""Triton kernels behind deployments/layers/group_norm.py.

A group norm is three passes: moments of every channel over chunks of pixels, moments of the groups
out of them (small), and y = factor x + offset. The first one is the last step of the pass that
writes the pixels wherever that is one of ours. Computed in float32 whatever the tensors' dtype is.
"""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from deployments.layers.group_norm import CHUNK

_BLOCK = 64  # channels of a program: lines of 128 bytes in half precision
_SCALED = 64  # pixels that a program scales
_WARPS = 4  # of a pass that only reads; one that adds holds twice as much


@triton.jit
def _vector(vector, row, column, known):
    """A vector beside every row, so that a thread reads what it uses, 16 bytes at once."""
    return tl.load(vector + (row * 0)[:, None] + column[None, :], mask=known, other=0.0)


@triton.jit
def _channel_moments(
    h,
    vector,
    more,
    x,
    out,
    means,
    squares,
    pixels,
    channels,
    BIASED: tl.constexpr,
    MORE: tl.constexpr,
    ADD: tl.constexpr,
    WHOLE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Mean and sum of squared deviations of every channel over one chunk of pixels.

    They are those of h, or of h + vector [+ more] [+ x] as it is rounded and stored in ``out``. The
    chunk stays in registers between both sums: deviations are from the mean itself. ``WHOLE`` says
    that no program reaches beyond the pixels and channels.
    """
    picture = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    column = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    known = column < channels
    start = chunk * ROWS
    row = tl.arange(0, ROWS)
    inside = (start + row < pixels)[:, None] & known[None, :]
    # 32 bits are enough within a picture.
    place = (start + row)[:, None] * channels + column[None, :]
    first = picture * pixels * channels
    # The whole chunk is asked for at once: a loop over parts of it would wait for each.
    v = tl.load(h + first + place, mask=inside, other=0.0)
    if ADD:
        w = tl.load(x + first + place, mask=inside, other=0.0)
    v = v.to(tl.float32)
    if BIASED:
        v += _vector(vector, row, column, inside).to(tl.float32)
        if MORE:
            v += _vector(more, row, column, inside).to(tl.float32)
        if ADD:
            v += w.to(tl.float32)
        rounded = v.to(out.dtype.element_ty)
        tl.store(out + first + place, rounded, mask=inside)
        v = rounded.to(tl.float32)
    count = tl.minimum(ROWS, pixels - start).to(tl.float32)
    mean = tl.sum(v, 0) / count  # what lies outside is zero, vectors there are, too
    apart = v - mean[None, :]
    if not WHOLE:
        apart = tl.where(inside, apart, 0.0)
    target = (picture * tl.num_programs(1) + chunk) * channels + column
    tl.store(means + target, mean, mask=known)
    tl.store(squares + target, tl.sum(apart * apart, 0), mask=known)


def moments_of(
    h: Tensor,
    bias: Tensor | None = None,
    x: Tensor | None = None,
    more: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Means and sums of squared deviations (N, chunks, C) of what ``out`` becomes.

    That is h, (N, C, ...) with channels side by side, and with a ``bias`` (C,) h + bias + more + x,
    which is stored in ``out``; ``out`` may be ``h``.
    """
    pictures, channels, *space = h.shape
    pixels = math.prod(space)
    chunks = triton.cdiv(pixels, CHUNK)
    means = h.new_empty(pictures, chunks, channels, dtype=torch.float32)
    squares = torch.empty_like(means)
    _channel_moments[(pictures, chunks, triton.cdiv(channels, _BLOCK))](
        h,
        h if bias is None else bias,
        h if more is None else more,
        h if x is None else x,
        h if out is None else out,
        means,
        squares,
        pixels,
        channels,
        BIASED=bias is not None,
        MORE=more is not None,
        ADD=x is not None,
        WHOLE=pixels % CHUNK == 0 and channels % _BLOCK == 0,
        ROWS=CHUNK,
        BLOCK=_BLOCK,
        num_warps=_WARPS if x is None else 2 * _WARPS,
    )
    return means, squares


@triton.jit
def _group_factors(
    means,
    squares,
    skip_means,
    skip_squares,
    weight,
    bias,
    shift,
    factor,
    offset,
    pixels,
    channels,
    first,
    chunks,
    step,
    eps,
    ROWS: tl.constexpr,
    SHIFTED: tl.constexpr,
    SKIP: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Moments of a group out of its channels' moments, turned into y = factor x + offset.

    Channels from ``first`` on have theirs in the second pair.
    """
    picture = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    width = channels // tl.num_programs(1)
    lane = tl.arange(0, BLOCK)
    column = group * width + lane
    chunk = tl.arange(0, CHUNKS)
    inside = (chunk < chunks)[:, None] & (lane < width)[None, :]
    here = inside & (column < first)[None, :]
    place = (picture * chunks + chunk)[:, None] * first + column[None, :]
    mean = tl.load(means + place, mask=here, other=0.0)
    square = tl.load(squares + place, mask=here, other=0.0)
    if SKIP:
        there = inside & (column >= first)[None, :]
        place = (picture * chunks + chunk)[:, None] * (channels - first) + column[None, :] - first
        mean += tl.load(skip_means + place, mask=there, other=0.0)
        square += tl.load(skip_squares + place, mask=there, other=0.0)
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
def _sigmoid(z):
    """1 / (1 + 2^z), to two last places of float32.

    The language's own exponential and division keep the smallest numbers, which takes them half of
    all instructions of a pass; beside the one such numbers do not matter.
    """
    return tl.inline_asm_elementwise(
        "{ .reg .f32 t; ex2.approx.ftz.f32 t, $1; add.f32 t, t, 0f3F800000; "
        "rcp.approx.ftz.f32 $0, t; }",
        "=f,f",
        [z],
        dtype=tl.float32,
        is_pure=True,
        pack=1,
    )


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
        y = y * _sigmoid(y * -1.4426950408889634)
    tl.store(out + pixel[:, None] * joint + first + column[None, :], y, mask=inside)


def group_norm(
    parts: Sequence[Tensor],
    moments: Sequence[tuple[Tensor, Tensor]],
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    shift: Tensor | None,
    *,
    silu: bool,
) -> Tensor:
    """See ``group_norm.group_norm``; one tensor or two that stand side by side, channels last.

    ``moments`` are those of each part. Rows of ``shift`` may lie anywhere, also all in one place;
    channels of a row lie side by side.
    """
    pictures, first, *space = parts[0].shape
    pixels, joint = math.prod(space), sum(part.shape[1] for part in parts)
    chunks, width = moments[0][0].shape[1], joint // groups
    held = triton.next_power_of_2(chunks), triton.next_power_of_2(width)
    factor = moments[0][0].new_empty(pictures, joint)
    offset = torch.empty_like(factor)
    _group_factors[(pictures, groups)](
        *moments[0],
        *moments[-1],
        weight,
        bias,
        factor if shift is None else shift,
        factor,
        offset,
        pixels,
        joint,
        first,
        chunks,
        0 if shift is None else shift.stride(0),
        eps,
        ROWS=CHUNK,
        SHIFTED=shift is not None,
        SKIP=len(parts) > 1,
        CHUNKS=held[0],
        BLOCK=held[1],
        num_warps=max(1, min(8, held[0] * held[1] // 512)),
    )
    layout = torch.channels_last if parts[0].ndim == 4 else torch.channels_last_3d
    out = torch.empty(
        (pictures, joint, *space), dtype=parts[0].dtype, device=factor.device, memory_format=layout
    )
    for part, start in zip(parts, (0, first), strict=False):
        channels = part.shape[1]
        _scale_channels[(pictures, triton.cdiv(pixels, _SCALED), triton.cdiv(channels, _BLOCK))](
            part,
            out,
            factor,
            offset,
            pixels,
            channels,
            joint,
            start,
            SILU=silu,
            ROWS=_SCALED,
            BLOCK=_BLOCK,
        )
    return out
