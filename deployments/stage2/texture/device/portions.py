"""Lists of very different lengths, cut into portions of bounded memory."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def portions(counts: Tensor, most: int) -> list[tuple[int, int]]:
    """Ranges of consecutive items whose ``counts`` (N,) add up to about ``most`` each."""
    if len(counts) == 0:
        return []
    end = counts.cumsum(0)
    marks = torch.arange(most, int(end[-1]) + most, most, device=end.device)
    edges = [0, *(torch.searchsorted(end, marks) + 1).clamp(max=len(end)).tolist()]
    return [(a, b) for a, b in pairwise(edges) if a < b]
