"""How the inner loops of mesh and texture are compiled and run.

Loops are numba functions that release the GIL; a thread pool of our own runs them band by band.
numba's parallel mode is left alone: its fall-back threading layer aborts the whole process when two
requests bake at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import TypeVar

import numba

Loop = TypeVar("Loop", bound=Callable[..., object])

MOST_WORKERS = 8


def compiled(loop: Loop) -> Loop:
    """Compile at first use and keep the machine code on disk, if there is a place for it."""
    try:
        return numba.njit(cache=True, nogil=True, fastmath={"contract", "arcp", "nsz"})(loop)
    except RuntimeError:  # no folder for the cache is writable: compile in every process
        return numba.njit(nogil=True, fastmath={"contract", "arcp", "nsz"})(loop)


def workers() -> int:
    """How many loops run at once."""
    if hasattr(os, "sched_getaffinity"):  # Linux: what this process may use, not what there is
        return min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    return min(os.cpu_count() or 1, MOST_WORKERS)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers(), thread_name_prefix="texture")


def in_bands(count: int, task: Callable[[int, int], None], *, bands_per_worker: int = 4) -> None:
    """Call ``task(start, stop)`` until 0..count is covered, on all workers."""
    bands = max(1, min(count, workers() * bands_per_worker))
    edges = [count * band // bands for band in range(bands + 1)]
    for done in [_pool().submit(task, a, b) for a, b in pairwise(edges)]:
        done.result()
