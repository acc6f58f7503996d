"""Gradient of a sparse convolution's weight: one small matrix product an offset, rows gathered."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 2048  # enough to fill a large card several times over


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _kernel(  # type: ignore[no-untyped-def]
    gradient, feats, table, out,
    rows, chunk, out_channels, in_channels, stride_table,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Sums over one chunk of the rows, for one offset and one tile of the matrix."""
    offset, part = tl.program_id(0), tl.program_id(1)
    tiles_k = tl.cdiv(in_channels, BLOCK_K)
    n = tl.program_id(2) // tiles_k * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.program_id(2) % tiles_k * BLOCK_K + tl.arange(0, BLOCK_K)
    start = part * chunk
    stop = tl.minimum(start + chunk, rows)
    total = tl.zeros((BLOCK_N, BLOCK_K), dtype=tl.float32)
    for first in range(start, stop, BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        source = tl.load(table + offset * stride_table + m, mask=m < stop, other=-1)
        if tl.max(source, axis=0) >= 0:
            present = source >= 0
            g = tl.load(
                gradient + m.to(tl.int64)[:, None] * out_channels + n[None, :],
                mask=present[:, None] & (n < out_channels)[None, :],
                other=0.0,
            )
            x = tl.load(
                feats + source.to(tl.int64)[:, None] * in_channels + k[None, :],
                mask=present[:, None] & (k < in_channels)[None, :],
                other=0.0,
            )
            total = tl.dot(tl.trans(g), x, total)
    place = (part * tl.num_programs(0) + offset).to(tl.int64) * out_channels
    target = out + (place + n)[:, None] * in_channels + k[None, :]
    tl.store(target, total, mask=(n < out_channels)[:, None] & (k < in_channels)[None, :])


def weight_gradient_triton(gradient: Tensor, feats: Tensor, table: Tensor) -> Tensor:
    """The same sum as ``convolution_gradient.weight_gradient_torch``, in half precision on CUDA."""
    gradient, feats, table = gradient.contiguous(), feats.contiguous(), table.contiguous()
    offsets, rows = table.shape
    out_channels, in_channels = gradient.shape[1], feats.shape[1]
    block_n, block_k = (
        min(64, max(16, triton.next_power_of_2(c))) for c in (out_channels, in_channels)
    )
    tiles = triton.cdiv(out_channels, block_n) * triton.cdiv(in_channels, block_k)
    block_m = 64
    parts = max(1, min(PROGRAMS // (offsets * tiles), triton.cdiv(rows, 4 * block_m)))
    chunk = triton.cdiv(triton.cdiv(rows, parts), block_m) * block_m
    parts = triton.cdiv(rows, chunk)
    out = torch.empty(parts, offsets, out_channels, in_channels, device=feats.device)
    _kernel[(offsets, parts, tiles)](
        gradient, feats, table, out,
        rows, chunk, out_channels, in_channels, table.stride(0),
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k, num_warps=4, num_stages=2,
    )  # fmt: skip
    return out.sum(0).transpose(0, 1).contiguous()
