"""Normalisations of the transformer blocks, computed in float32 and returned in the input's dtype.

The per-head RMS norm and the un-weighted layer norm with modulation are those of model.md 6.5.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last axis whose weights may be of a wider dtype than its input."""

    def __init__(self, channels: int, *, eps: float, affine: bool = True) -> None:
        super().__init__(channels, eps=eps, elementwise_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        if not self.elementwise_affine or self.weight.dtype == x.dtype:
            return super().forward(x)
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


def layer_norm_modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """LN(x) (1 + scale) + shift, LN without weights; shift and scale broadcast against x."""
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift


class HeadRMSNorm(nn.Module):
    """Every head's vector is scaled to length sqrt(D) and multiplied by a gain of its own."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, head_dim))
        self.length = head_dim**0.5

    def forward(self, x: Tensor) -> Tensor:
        """(..., H, D) -> (..., H, D)."""
        unit = F.normalize(x.float(), dim=-1, eps=1e-12)
        return (unit * self.gamma.float() * self.length).to(x.dtype)
