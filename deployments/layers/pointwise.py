"""Elementwise work and group norm of the picture networks, each as one named step.

These are the plain torch forms. On a GPU every one of them is a pass over memory or several, so
they are kept in one place, where a fused kernel can take over.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def group_norm_silu(x: Tensor, norm: nn.GroupNorm, shift: Tensor | None = None) -> Tensor:
    """SiLU(GN(x + shift)): pictures (N, C, H, W), shift (N, C)."""
    if shift is not None:
        x = x + shift[:, :, None, None]
    return F.silu(norm(x))


def geglu(h: Tensor) -> Tensor:
    """(..., 2 C) = [a | g] -> a GELU(g) (..., C), GELU in its exact form."""
    a, g = h.chunk(2, dim=-1)
    return a * F.gelu(g)
