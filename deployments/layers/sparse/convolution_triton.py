"""Sub-manifold convolution as an implicit GEMM in Triton: neighbours are gathered tile by tile.

Nothing of size (N, 27 C) is ever stored. Rows without a certain neighbour add nothing, and a whole
tile without it skips the offset.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _kernel(  # type: ignore[no-untyped-def]
    feats, weight, bias, table, out,
    rows, in_channels, out_channels,
    stride_feats, stride_table,
    OFFSETS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of the output: BLOCK_M rows by BLOCK_N channels."""
    tiles_n = tl.cdiv(out_channels, BLOCK_N)
    tile = tl.program_id(0)  # tiles of the same rows run side by side and share their inputs
    m = tile // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    row_exists = m < rows
    channel_exists = n < out_channels
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for offset in range(OFFSETS):
        source = tl.load(table + offset * stride_table + m, mask=row_exists, other=-1)
        present = source >= 0
        if tl.max(source, axis=0) >= 0:
            inputs = feats + source.to(tl.int64)[:, None] * stride_feats
            weights = weight + (n.to(tl.int64) * OFFSETS + offset)[None, :] * in_channels
            for start in range(0, in_channels, BLOCK_K):
                inside = start + k < in_channels
                a = tl.load(
                    inputs + (start + k)[None, :],
                    mask=present[:, None] & inside[None, :],
                    other=0.0,
                )
                b = tl.load(
                    weights + (start + k)[:, None],
                    mask=channel_exists[None, :] & inside[:, None],
                    other=0.0,
                )
                total = tl.dot(a, b, total, input_precision=PRECISION)
    total += tl.load(bias + n, mask=channel_exists, other=0.0).to(tl.float32)[None, :]
    target = out + m.to(tl.int64)[:, None] * out_channels + n[None, :]
    tl.store(target, total, mask=row_exists[:, None] & channel_exists[None, :])


def convolve_triton(feats: Tensor, weight: Tensor, bias: Tensor, table: Tensor) -> Tensor:
    """The same sum as ``convolution.convolve_torch``, on CUDA, accumulated in float32.

    ``feats`` (M, C), ``weight`` (C', 3, 3, 3, C), ``table`` (27, N) int32 -> (N, C'). float32
    inputs are multiplied exactly, unless PyTorch is allowed to use TF32.
    """
    feats, weight, table = feats.contiguous(), weight.contiguous(), table.contiguous()
    rows, out_channels, in_channels = table.shape[1], weight.shape[0], weight.shape[-1]
    out = feats.new_empty(rows, out_channels)
    if rows == 0:
        return out
    half = feats.dtype != torch.float32
    block_m, block_n = 128, min(128, max(16, triton.next_power_of_2(out_channels)))
    if block_n >= 128 and out_channels % 128 and out_channels % 64 == 0:
        block_n = 64  # 192 channels: three full tiles rather than one and a half
    block_k = min(64 if half else 32, max(16, triton.next_power_of_2(in_channels)))
    grid = (triton.cdiv(out_channels, block_n) * triton.cdiv(rows, block_m),)
    _kernel[grid](
        feats, weight, bias, table, out,
        rows, in_channels, out_channels,
        feats.stride(0), table.stride(0),
        OFFSETS=table.shape[0], BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k,
        PRECISION="ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
        num_warps=8 if block_n == 128 else 4, num_stages=3,
    )  # fmt: skip
    return out
