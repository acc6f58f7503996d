"""Packed sequences of many lengths as a few padded batches, for kernels that only know batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

# A batch takes another sequence while it holds at most this many padded rows for each real one,
# and this many query-key pairs (64 M pairs in half precision are 128 MB a head, where a kernel
# materialises them).
_ROWS_PER_REAL_ROW = 1.3
_PAIRS_PER_BATCH = 1 << 26


@dataclass(frozen=True)
class PaddedBatch:
    """B sequences of similar length, padded to the longest; padded positions point to row 0."""

    q_rows: Tensor  # (B, Tq) int64, packed row of every query position
    k_rows: Tensor  # (B, Tk) int64, packed row of every key position
    k_mask: Tensor | None  # (B, 1, 1, Tk) bool, True where the key is real; None: all are
    real_queries: Tensor  # (n,) int64, positions in the flattened (B Tq) that are real


@lru_cache(maxsize=16)
def padded_batches(
    q_lengths: tuple[int, ...], k_lengths: tuple[int, ...], device: torch.device
) -> tuple[PaddedBatch, ...]:
    """Group sequences of similar length; those without a query or without a key are left out.

    Cached by value: a network's layers attend over the same few partitions again and again.
    """
    q_counts, k_counts = torch.tensor(q_lengths), torch.tensor(k_lengths)
    q_starts, k_starts = q_counts.cumsum(0) - q_counts, k_counts.cumsum(0) - k_counts
    batches = []
    for members in _groups(q_lengths, k_lengths):
        q_rows, q_real = _rows(q_starts[members], q_counts[members])
        k_rows, k_real = _rows(k_starts[members], k_counts[members])
        batches.append(
            PaddedBatch(
                q_rows=q_rows.to(device),
                k_rows=k_rows.to(device),
                k_mask=None if bool(k_real.all()) else k_real[:, None, None].to(device),
                real_queries=q_real.flatten().nonzero()[:, 0].to(device),
            )
        )
    return tuple(batches)


def _groups(q_lengths: tuple[int, ...], k_lengths: tuple[int, ...]) -> Iterator[list[int]]:
    """Indices of sequences that share a batch, longest first."""
    present = [i for i, (q, k) in enumerate(zip(q_lengths, k_lengths, strict=True)) if q and k]
    group: list[int] = []
    real = widest_q = widest_k = 0
    for index in sorted(present, key=lambda i: -q_lengths[i] * k_lengths[i]):
        q, k = q_lengths[index], k_lengths[index]
        size, q_width, k_width = len(group) + 1, max(widest_q, q), max(widest_k, k)
        wasteful = size * (q_width + k_width) > _ROWS_PER_REAL_ROW * (real + q + k)
        if group and (wasteful or size * q_width * k_width > _PAIRS_PER_BATCH):
            yield group
            group, real, q_width, k_width = [], 0, q, k
        group.append(index)
        real, widest_q, widest_k = real + q + k, q_width, k_width
    if group:
        yield group


def _rows(starts: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Packed row of every padded position and whether it is real, both (B, longest)."""
    steps = torch.arange(int(counts.max()))
    real = steps < counts[:, None]
    return torch.where(real, starts[:, None] + steps, 0), real
