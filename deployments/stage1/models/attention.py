"""Attention modules of the picture networks: q, k, v without bias, output projection with bias.

Keys of the state dict are the official ones (``to_q``, ``to_k``, ``to_v``, ``to_out.0``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.layers.attention import attention
from deployments.layers.attention.gathered import gathered_attention


class Projections(nn.Module):
    """The four linear layers that every attention has, and how channels divide into heads."""

    def __init__(self, channels: int, context_channels: int, heads: int, head_dim: int) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(context_channels, inner, bias=False)
        self.to_v = nn.Linear(context_channels, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, channels)])

    def split(self, x: Tensor) -> Tensor:
        """(..., H D) -> (..., H, D)."""
        return x.unflatten(-1, (self.heads, -1))

    @property
    def out(self) -> nn.Linear:
        """The output layer."""
        return self.to_out[0]  # type: ignore[return-value]

    def project(self, mixed: Tensor) -> Tensor:
        """Mixed values (..., H D) -> (..., C)."""
        return self.out(mixed)


class CrossAttention(Projections):
    """Attention from tokens to a context."""

    def context_keys(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Context (..., L, C') -> keys and values, each (..., L, H, D)."""
        return self.split(self.to_k(context)), self.split(self.to_v(context))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Tokens (B, T, C), keys and values (B, L, H, D) -> (B, T, C)."""
        return self.project(self.mix(x, keys, values))

    def mix(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Tokens (B, T, C), keys and values (B, L, H, D) -> mixed values (B, T, H D)."""
        return attention(self.split(self.to_q(x)), keys, values).flatten(-2)

    def read(self, x: Tensor, context: Tensor, picks: Tensor) -> Tensor:
        """Every token reads the places of the context that it picks.

        Tokens (B, T, C), context (B, P, C'), ``picks`` (T, K) numbers of places -> (B, T, C).
        """
        keys, values = self.context_keys(context)
        mixed = gathered_attention(self.split(self.to_q(x)), keys, values, picks)
        return self.project(mixed.flatten(-2))


class SelfAttention(Projections):
    """Attention among tokens; q, k and v come out of one product once ``fuse`` was called."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, channels, heads, channels // heads)
        self.joint: Tensor | None = None  # (3 H D, C), the three weights once they are fused
        self.project_qkv: Callable[[Tensor], Tensor] | None = None

    def fuse(self) -> None:
        """Lay the three weights one behind the other in memory and use them as one product.

        The parameters become views of that memory: the state dict stays as it was, nothing is held
        twice. The module must stay on its device and in its dtype afterwards.
        """
        layers = (self.to_q, self.to_k, self.to_v)
        self.joint = torch.cat([layer.weight.detach() for layer in layers])
        self.project_qkv = partial(F.linear, weight=self.joint)
        for layer, part in zip(layers, self.joint.chunk(3), strict=True):
            layer.weight = nn.Parameter(part, requires_grad=False)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., C) -> q, k, v, each (..., H, D)."""
        if self.project_qkv is None:
            return self.split(self.to_q(x)), self.split(self.to_k(x)), self.split(self.to_v(x))
        q, k, v = self.project_qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return q, k, v

    def mix(self, x: Tensor) -> Tensor:
        """Tokens (B, T, C) -> mixed values (B, T, H D), before the output layer."""
        return attention(*self.qkv(x)).flatten(-2)
