"""The Triton kernel behind deployments/layers/attention/gathered.py."""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_TILE = 2048  # elements of q that a program holds


@triton.jit
def _gathered_attention(
    q,
    k,
    v,
    picks,
    out,
    queries,
    keys,
    heads,
    dim,
    scale,
    PICKS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A block of queries of one head; the softmax is kept up to date from key to key."""
    batch = tl.program_id(2).to(tl.int64)
    head = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    there = row < queries
    inside = there[:, None] & (column < dim)[None, :]
    width = heads * dim
    place = (batch * queries + row)[:, None] * width + head * dim + column[None, :]
    wanted = tl.load(q + place, mask=inside, other=0.0).to(tl.float32) * scale
    highest = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mean = tl.zeros([ROWS, BLOCK], tl.float32)
    for pick in tl.static_range(PICKS):
        key = tl.load(picks + row * PICKS + pick, mask=there, other=0)
        source = (batch * keys + key)[:, None] * width + head * dim + column[None, :]
        score = tl.sum(wanted * tl.load(k + source, mask=inside, other=0.0).to(tl.float32), 1)
        above = tl.maximum(highest, score)
        keep = tl.exp(highest - above)
        weight = tl.exp(score - above)
        value = tl.load(v + source, mask=inside, other=0.0).to(tl.float32)
        mean = mean * keep[:, None] + weight[:, None] * value
        total = total * keep + weight
        highest = above
    tl.store(out + place, mean / total[:, None], mask=inside)


def gathered_attention(q: Tensor, k: Tensor, v: Tensor, picks: Tensor) -> Tensor:
    """See ``gathered.gathered_attention``."""
    q, k, v = (x.contiguous() for x in (q, k, v))
    batch, queries, heads, dim = q.shape
    out = q.new_empty(q.shape)
    block = triton.next_power_of_2(dim)
    rows = max(1, _TILE // block)
    _gathered_attention[(triton.cdiv(queries, rows), heads, batch)](
        q,
        k,
        v,
        picks,
        out,
        queries,
        k.shape[1],
        heads,
        dim,
        dim**-0.5,
        PICKS=picks.shape[1],
        ROWS=rows,
        BLOCK=block,
    )
    return out
