"""Rectified flow: the straight path from data to noise, and what a network is asked on it."""

from __future__ import annotations

import torch
from torch import Tensor

SHIFT = 2.5  # times lean towards noise; the sampler's own shift is 3 (model.md 7)


def draw_times(count: int, device: torch.device) -> Tensor:
    """(B,) times in 0..1: logit-normal, shifted."""
    times = torch.randn(count, device=device).sigmoid()
    return SHIFT * times / (1 + (SHIFT - 1) * times)


def noisy(data: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """x_t = (1 - t) x + t n, and its velocity n - x (model.md 7)."""
    t = times.view(-1, *[1] * (data.ndim - 1))
    return (1 - t) * data + t * noise, noise - data


def drop(values: Tensor, dropped: Tensor) -> Tensor:
    """Zeros in the rows of unconditional subjects, as the sampler has them."""
    return values * ~dropped.view(-1, *[1] * (values.ndim - 1))
