"""Norms with parameters, computed in float32 and returned in their input's dtype (model.md 6.5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deployments.layers.pointwise import head_rms_norm


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last axis whose weights may be of a wider dtype than its input."""

    def __init__(self, channels: int, *, eps: float, affine: bool = True) -> None:
        super().__init__(channels, eps=eps, elementwise_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        if not self.elementwise_affine or self.weight.dtype == x.dtype:
            return super().forward(x)
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class HeadRMSNorm(nn.Module):
    """Every head's vector is scaled to length sqrt(D) and multiplied by a gain of its own."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., H, D) -> (..., H, D)."""
        return head_rms_norm(x, self.gamma)
