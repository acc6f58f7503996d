"""The kernel behind deployments/layers/attention/hopper.py, in Triton's Gluon.

One warp has the copy engine bring keys and values to shared memory; three groups of four warps own
64 queries each and go through all keys. The scores of the next keys, and the sum over the values of
the last ones, are multiplied while the softmax between them is computed (Shah et al. 2024,
"FlashAttention-3"). At 64 channels a head the special-function units need as long for the
exponentials as the tensor cores for both products, so a part of the exponentials is a polynomial
on the multiply-add units.
"""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"

from __future__ import annotations

import math

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

DIM = gl.constexpr(64)
QUERIES = gl.constexpr(64)  # of a group of four warps
GROUPS = gl.constexpr(3)  # 547 TFLOP/s over 18432 keys; two with more registers each gave 490
KEYS = gl.constexpr(128)  # at a time
STAGES = gl.constexpr(2)  # of keys and values in shared memory
REGISTERS = gl.constexpr(160)  # of a thread that computes


def _exponentials() -> str:
    """PTX of 2^x for eight x <= 0, the first by polynomial, the others by the special unit.

    x is rounded to an integer, which goes to the exponent (Cody and Waite); the polynomial of the
    rest has a relative error below 8e-5, a third of what rounding a weight to half precision costs.
    """
    lines = [
        ".reg .f32 t, r, u, p;",
        ".reg .b32 n, m;",
        "max.f32 t, $8, 0fC2FC0000;",  # -126
        "add.rn.f32 r, t, 0f4B400000;",  # 1.5 * 2^23: its low bits now hold the integer
        "sub.rn.f32 u, r, 0f4B400000;",
        "sub.rn.f32 t, t, u;",
        "fma.rn.f32 p, t, 0f3D61FB6D, 0f3E786F10;",  # 0.05517142, 0.24261117
        "fma.rn.f32 p, p, t, 0f3F31798E;",  # 0.69326106
        "fma.rn.f32 p, p, t, 0f3F7FFB49;",  # 0.99992807
        "mov.b32 n, r;",
        "shl.b32 n, n, 23;",
        "mov.b32 m, p;",
        "add.s32 m, m, n;",
        "mov.b32 $0, m;",
        *(f"ex2.approx.ftz.f32 ${i}, ${i + 8};" for i in range(1, 8)),
    ]
    return "{ " + " ".join(lines) + " }"


_EXPONENTIALS = gl.constexpr(_exponentials())
_EIGHT_FLOATS = gl.constexpr(",".join(["=f"] * 8 + ["f"] * 8))


@gluon.jit
def _weights(scores, highest, scale):
    # Not "pure": it would be moved behind the wait for a product that is to run beside it.
    return gl.inline_asm_elementwise(
        _EXPONENTIALS,
        _EIGHT_FLOATS,
        [scores * scale - highest[:, None]],
        dtype=gl.float32,
        is_pure=False,
        pack=8,
    )


@gluon.jit
def _produce(
    q,
    k,
    v,
    q_tile,
    k_tiles,
    v_tiles,
    q_ready,
    k_ready,
    v_ready,
    k_read,
    v_read,
    token,
    key,
    column,
    count,
):
    """Copy the queries, then keys and values as soon as there is room for them."""
    mbarrier.expect(q_ready, GROUPS * QUERIES * DIM * 2)
    for group in gl.static_range(GROUPS):
        tma.async_copy_global_to_shared(
            q, [token + group * QUERIES, column], q_ready, q_tile.index(group)
        )
    for j in range(count):
        stage = j % STAGES
        free = ((j // STAGES) & 1) ^ 1
        mbarrier.wait(k_read.index(stage), free)
        mbarrier.expect(k_ready.index(stage), KEYS * DIM * 2)
        tma.async_copy_global_to_shared(
            k, [key + j * KEYS, column], k_ready.index(stage), k_tiles.index(stage)
        )
        mbarrier.wait(v_read.index(stage), free)
        mbarrier.expect(v_ready.index(stage), KEYS * DIM * 2)
        tma.async_copy_global_to_shared(
            v, [key + j * KEYS, column], v_ready.index(stage), v_tiles.index(stage)
        )


@gluon.jit
def _consume(
    out,
    q_tile,
    k_tiles,
    v_tiles,
    q_ready,
    k_ready,
    v_ready,
    k_read,
    v_read,
    first,
    queries,
    token,
    width,
    column,
    count,
    scale,
    GROUP: gl.constexpr,
):
    """64 queries: softmax over all keys as they come, the two products one round apart."""
    half: gl.constexpr = out.dtype.element_ty
    of_scores: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    of_sums: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, DIM, 16])
    of_weights: gl.constexpr = gl.DotOperandLayout(0, of_sums, 2)
    rows: gl.constexpr = gl.SliceLayout(1, of_sums)
    nothing = gl.zeros([QUERIES, KEYS], gl.float32, of_scores)
    sums = gl.zeros([QUERIES, DIM], gl.float32, of_sums)

    mbarrier.wait(q_ready, 0)
    wanted = q_tile.index(GROUP)
    mbarrier.wait(k_ready.index(0), 0)
    scores = warpgroup_mma(
        wanted, k_tiles.index(0).permute((1, 0)), nothing, use_acc=False, is_async=True
    )
    scores = warpgroup_mma_wait(0, deps=[scores])
    mbarrier.arrive(k_read.index(0))
    highest = gl.max(scores, 1) * scale
    weights = _weights(scores, highest, scale)
    total = gl.sum(weights, 1)
    operand = gl.convert_layout(weights.to(half), of_weights)
    for j in range(1, count):
        stage = j % STAGES
        last = (j - 1) % STAGES
        mbarrier.wait(k_ready.index(stage), (j // STAGES) & 1)
        scores = warpgroup_mma(
            wanted, k_tiles.index(stage).permute((1, 0)), nothing, use_acc=False, is_async=True
        )
        mbarrier.wait(v_ready.index(last), ((j - 1) // STAGES) & 1)
        sums = warpgroup_mma(operand, v_tiles.index(last), sums, is_async=True)
        scores = warpgroup_mma_wait(1, deps=[scores])
        mbarrier.arrive(k_read.index(stage))
        above = gl.maximum(highest, gl.max(scores, 1) * scale)
        weights = _weights(scores, above, scale)
        keep = gl.exp2(highest - above)
        total = total * keep + gl.sum(weights, 1)
        highest = above
        # The queries came long ago. But this is a branch, and the assembler moves the wait for the
        # values' product, which comes next, up to the last branch, before the exponentials.
        mbarrier.wait(q_ready, 0)
        sums = warpgroup_mma_wait(0, deps=[sums])
        mbarrier.arrive(v_read.index(last))
        sums = sums * gl.convert_layout(keep, rows)[:, None]
        operand = gl.convert_layout(weights.to(half), of_weights)
    last = (count - 1) % STAGES
    mbarrier.wait(v_ready.index(last), ((count - 1) // STAGES) & 1)
    sums = warpgroup_mma(operand, v_tiles.index(last), sums, is_async=True)
    sums = warpgroup_mma_wait(0, deps=[sums])
    mean = sums / gl.convert_layout(total, rows)[:, None]
    row = first + GROUP * QUERIES + gl.arange(0, QUERIES, rows)
    channel = column + gl.arange(0, DIM, gl.SliceLayout(0, of_sums))
    place = (token + row).to(gl.int64)[:, None] * width + channel[None, :]
    gl.store(out + place, mean.to(half), mask=(row < queries)[:, None])


@gluon.jit
def _attention(
    q,
    k,
    v,
    out,
    queries,
    keys,
    width,
    scale,
):
    """64 queries a group of one head; ``scale`` contains log2(e)."""
    start = gl.program_id(2) * queries
    column = gl.program_id(1) * DIM
    first = gl.program_id(0) * (GROUPS * QUERIES)
    count = keys // KEYS
    half: gl.constexpr = out.dtype.element_ty
    q_tile = gl.allocate_shared_memory(half, [GROUPS, QUERIES, DIM], q.layout)
    k_tiles = gl.allocate_shared_memory(half, [STAGES, KEYS, DIM], k.layout)
    v_tiles = gl.allocate_shared_memory(half, [STAGES, KEYS, DIM], v.layout)
    barriers: gl.constexpr = mbarrier.MBarrierLayout()
    q_ready = gl.allocate_shared_memory(gl.int64, [1], barriers)
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], barriers)
    v_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], barriers)
    k_read = gl.allocate_shared_memory(gl.int64, [STAGES, 1], barriers)
    v_read = gl.allocate_shared_memory(gl.int64, [STAGES, 1], barriers)
    mbarrier.init(q_ready, count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(stage), count=1)
        mbarrier.init(v_ready.index(stage), count=1)
        mbarrier.init(k_read.index(stage), count=GROUPS)
        mbarrier.init(v_read.index(stage), count=GROUPS)
    # fmt: off
    # Constants stay constants only where tuples are written out in the call.
    ZERO: gl.constexpr = 0
    ONE: gl.constexpr = 1
    TWO: gl.constexpr = 2
    gl.warp_specialize(
        [
            (_consume, (out, q_tile, k_tiles, v_tiles, q_ready, k_ready, v_ready, k_read, v_read,
                        first, queries, start, width, column, count, scale, ZERO)),
            (_consume, (out, q_tile, k_tiles, v_tiles, q_ready, k_ready, v_ready, k_read, v_read,
                        first, queries, start, width, column, count, scale, ONE)),
            (_consume, (out, q_tile, k_tiles, v_tiles, q_ready, k_ready, v_ready, k_read, v_read,
                        first, queries, start, width, column, count, scale, TWO)),
            (_produce, (q, k, v, q_tile, k_tiles, v_tiles, q_ready, k_ready, v_ready, k_read,
                        v_read, start + first, gl.program_id(2) * keys, column, count)),
        ],
        [4, 4, 1],
        [REGISTERS, REGISTERS, 24],
    )
    # fmt: on


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """See ``hopper.attention``."""
    batch, queries, heads, dim = q.shape
    out = q.new_empty(q.shape)
    layout = gl.NVMMASharedLayout(128, 16, rank=2)

    def tiles(x: Tensor, rows: int) -> TensorDescriptor:
        shape = [x.shape[0] * x.shape[1], heads * dim]
        return TensorDescriptor(x, shape, [x.stride(1), 1], [rows, dim], layout)

    _attention[(-(-queries // (GROUPS.value * QUERIES.value)), heads, batch)](
        tiles(q, QUERIES.value),
        tiles(k, KEYS.value),
        tiles(v, KEYS.value),
        out,
        queries,
        k.shape[1],
        heads * dim,
        dim**-0.5 * math.log2(math.e),
        num_warps=4,
    )
    return out
