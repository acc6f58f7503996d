"""Times at which a rectified flow is evaluated (model.md 7 and 12)."""

from __future__ import annotations


def flow_schedule(steps: int, rescale_t: float) -> list[float]:
    """Times from 1 (noise) to 0 (data), ``steps`` + 1 of them.

    ``rescale_t`` above 1 spends more of the steps near 1.
    """
    even = [1 - i / steps for i in range(steps + 1)]
    return [rescale_t * u / (1 + (rescale_t - 1) * u) for u in even]
