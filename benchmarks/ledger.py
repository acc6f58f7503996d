"""How long the parts of a start or of a run took, and what device memory they left."""

from __future__ import annotations

import time
from typing import Any

import torch


class Ledger:
    """One row a part: seconds since the row before, and gigabytes of the device's allocator."""

    def __init__(self, device: str) -> None:
        self._on_gpu = device.startswith("cuda")
        self._last = time.perf_counter()
        self.rows: list[dict[str, Any]] = []

    def __call__(self, part: str) -> None:
        """Close the row of ``part``; the peak counts from the row before."""
        if self._on_gpu:
            torch.cuda.synchronize()
        now = time.perf_counter()
        row: dict[str, Any] = {"part": part, "s": round(now - self._last, 2)}
        if self._on_gpu:
            row |= {
                "allocated_gb": round(torch.cuda.memory_allocated() / 1e9, 2),
                "reserved_gb": round(torch.cuda.memory_reserved() / 1e9, 2),
                "peak_allocated_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
                "peak_reserved_gb": round(torch.cuda.max_memory_reserved() / 1e9, 2),
            }
            torch.cuda.reset_peak_memory_stats()
        self.rows.append(row)
        self._last = now

    @property
    def peak_gb(self) -> float | None:
        """Most that was reserved in any row."""
        return max(row["peak_reserved_gb"] for row in self.rows) if self._on_gpu else None

    def table(self) -> str:
        """The rows, a line each."""
        return "\n".join("  ".join(f"{k} {v}" for k, v in row.items()) for row in self.rows)
