"""The modulated transformer block of both flows (model.md 6.5).

One class for dense tokens (B, T, C), as the structure flow has them, and for packed tokens (N, C)
with the length of every sequence, as the latent flow over sparse voxels has them.

The block is called with what does not change between its neighbours already computed: the six
modulation vectors of a time step (``modulation``) and the keys and values of the condition
(``context_keys``), which are the same at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deployments.layers.attention import attention
from deployments.layers.attention.varlen import attention_varlen
from deployments.layers.normalization import HeadRMSNorm, LayerNorm
from deployments.layers.pointwise import (
    add_gated,
    add_norm,
    add_norm_modulated,
    head_rms_norm,
    linear_gelu,
    norm_modulated,
)

Lengths = Sequence[int]
_EPS = 1e-6


class SelfAttention(nn.Module):
    """Self-attention with fused q, k, v and an optional RMS norm of every head of q and k."""

    def __init__(self, channels: int, heads: int, *, qk_rms_norm: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.q_rms_norm = HeadRMSNorm(heads, channels // heads) if qk_rms_norm else None
        self.k_rms_norm = HeadRMSNorm(heads, channels // heads) if qk_rms_norm else None
        self.to_out = nn.Linear(channels, channels)
        self._gains: Tensor | None = None  # (2 H, D), those of q and k once they are fused

    def fuse(self) -> None:
        """Let the norms of q and k run as one; the module must stay on its device afterwards.

        The parameters become views of the joint gains: nothing is held twice.
        """
        if self.q_rms_norm is None or self.k_rms_norm is None:
            return
        norms = (self.q_rms_norm, self.k_rms_norm)
        self._gains = torch.cat([norm.gamma.detach() for norm in norms])
        for norm, part in zip(norms, self._gains.chunk(2), strict=True):
            norm.gamma = nn.Parameter(part, requires_grad=False)

    def forward(self, x: Tensor, lengths: Lengths | None = None) -> Tensor:
        """(B, T, C), or (N, C) with ``lengths`` -> the same shape."""
        qkv = self.to_qkv(x).unflatten(-1, (3, self.heads, -1))  # (..., 3, H, D)
        q, k, v = qkv.unbind(-3)
        if self._gains is not None:
            both = head_rms_norm(qkv[..., :2, :, :].flatten(-3, -2), self._gains)
            q, k = both.unflatten(-2, (2, -1)).unbind(-3)
        elif self.q_rms_norm is not None and self.k_rms_norm is not None:
            q, k = self.q_rms_norm(q), self.k_rms_norm(k)
        return self.to_out(_attend(q, k, v, lengths, lengths).flatten(-2))


class CrossAttention(nn.Module):
    """Attention to a dense condition; keys and values are computed once for all steps."""

    def __init__(self, channels: int, context_channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels)
        self.to_kv = nn.Linear(context_channels, 2 * channels)
        self.to_out = nn.Linear(channels, channels)

    def context_keys(self, context: Tensor) -> Tensor:
        """Condition (B, L, C') -> keys and values (B, L, 2, H, D)."""
        return self.to_kv(context).unflatten(-1, (2, self.heads, -1))

    def of_zeros(self) -> Tensor:
        """What every token gets from a condition that is zero throughout, (C,).

        All its keys are equal, and so are its values: any mean of them is the value that the bias
        gives.
        """
        return self.to_out(self.to_kv.bias.chunk(2)[1])

    def forward(self, x: Tensor, context_keys: Tensor, lengths: Lengths | None = None) -> Tensor:
        """(B, T, C), or (N, C) with ``lengths`` -> the same shape."""
        q = self.to_q(x).unflatten(-1, (self.heads, -1))
        k, v = context_keys.unbind(-3)  # (B, L, H, D)
        context_lengths = None
        if lengths is not None:
            context_lengths = [k.shape[1]] * len(lengths)
            k, v = k.flatten(0, 1), v.flatten(0, 1)  # (B L, H, D)
        return self.to_out(_attend(q, k, v, lengths, context_lengths).flatten(-2))


class FeedForward(nn.Module):
    """Two linear layers with the tanh form of GELU between them."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        hidden = int(channels * ratio)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.mlp[2](linear_gelu(x, self.mlp[0]))  # type: ignore[arg-type]


class Entered(NamedTuple):
    """Tokens, and the modulated norm of them with which their next block begins."""

    tokens: Tensor  # (..., C)
    normed: Tensor  # the same shape


class ModulatedBlock(nn.Module):
    """Self-attention and MLP modulated by time, cross-attention to the condition in between."""

    def __init__(
        self,
        channels: int,
        context_channels: int,
        heads: int,
        *,
        mlp_ratio: float = 4,
        qk_rms_norm: bool = True,
    ) -> None:
        super().__init__()
        self.norm2 = LayerNorm(channels, eps=_EPS)
        self.self_attn = SelfAttention(channels, heads, qk_rms_norm=qk_rms_norm)
        self.cross_attn = CrossAttention(channels, context_channels, heads)
        self.mlp = FeedForward(channels, mlp_ratio)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(channels, 6 * channels))
        self._blank: Tensor | None = None  # ``cross_attn.of_zeros()`` once it is kept

    def fuse(self) -> None:
        """Prepare for inference: keep what depends on weights alone, join the norms of q and k."""
        self.self_attn.fuse()
        with torch.no_grad():
            self._blank = self.cross_attn.of_zeros()

    def modulation(self, time: Tensor) -> Tensor:
        """Time embedding (B or 1, C) -> shift, scale, gate, twice (B or 1, 6 C)."""
        return self.adaLN_modulation(time)

    def context_keys(self, context: Tensor) -> Tensor:
        """Condition (B, L, C') -> keys and values (B, L, 2, H, D)."""
        return self.cross_attn.context_keys(context)

    def forward(
        self,
        x: Tensor | Entered,
        modulation: Tensor,
        context_keys: Tensor,
        lengths: Lengths | None = None,
        *,
        following: Tensor | None = None,
    ) -> Tensor | Entered:
        """Tokens (B, T, C), or packed (N, C) with the B ``lengths``; returns the same shape.

        ``modulation`` has one row for all or one a batch item, ``context_keys`` one entry a batch
        item; both come from the methods of those names. Dense items at the start for which
        ``context_keys`` has no entry have a condition of zeros. With the modulation of the
        ``following`` block the pass that ends this one begins that one, and ``Entered`` is
        returned.
        """
        rows = _rows(modulation, lengths)  # (6 C,), with several batch items (..., 6 C)
        shift1, scale1, gate1, shift2, scale2, gate2 = rows.chunk(6, dim=-1)
        if isinstance(x, Entered):
            x, h = x
        else:
            h = norm_modulated(x, shift1, scale1, _EPS)
        x, h = add_norm(x, self.self_attn(h, lengths), self.norm2, gate1)
        unread = x.shape[0] - context_keys.shape[0] if lengths is None else 0
        h = self.cross_attn(h[unread:] if unread else h, context_keys, lengths)
        blank = None
        if unread:
            blank = self._blank if self._blank is not None else self.cross_attn.of_zeros()
        x, h = add_norm_modulated(x, h, shift2, scale2, _EPS, blank=blank)
        h = self.mlp(h)
        if following is None:
            return add_gated(x, h, gate2)
        shift, scale = _rows(following, lengths).chunk(6, dim=-1)[:2]
        return Entered(*add_norm_modulated(x, h, shift, scale, _EPS, gate=gate2))


def _rows(modulation: Tensor, lengths: Lengths | None) -> Tensor:
    """Modulation rows shaped to broadcast against dense or packed tokens."""
    if modulation.shape[0] == 1:
        return modulation[0]
    if lengths is None:
        return modulation[:, None]
    repeats = torch.tensor(lengths, device=modulation.device)
    return modulation.repeat_interleave(repeats, dim=0, output_size=sum(lengths))


def _attend(
    q: Tensor, k: Tensor, v: Tensor, q_lengths: Lengths | None, k_lengths: Lengths | None
) -> Tensor:
    if q_lengths is None or k_lengths is None:
        return attention(q, k, v)
    if len(q_lengths) == 1:  # one sequence needs no packing
        return attention(q[None], k[None], v[None])[0]
    return attention_varlen(q, k, v, q_lengths, k_lengths)
