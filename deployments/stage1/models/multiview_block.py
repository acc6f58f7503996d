"""The multi-view transformer block (model.md 6.4).

Rows of a picture batch are ordered (G, V, 2): guidance branch, view, domain (normal, colour). In
this order the sequences of the joint-domain attention are views of memory, and so are the normal
half that the structure reads and the four body views. Only the row-wise attention has to regroup.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deployments.layers.pointwise import (
    add_norm,
    add_norm_to_rowwise,
    add_rowwise_norm,
    geglu,
)
from deployments.stage1.models.attention import CrossAttention, SelfAttention
from deployments.stage1.models.correspondence import BODY_VIEWS

DOMAINS = 2  # normal, colour
TextKeys = tuple[Tensor, Tensor]  # keys and values of the prompt, each (rows, L, H, D)


class JointDomainAttention(SelfAttention):
    """Normal and colour tokens of a picture attend to each other; the face blends into view 0."""

    def __init__(self, channels: int, heads: int, views: int) -> None:
        super().__init__(channels, heads)
        self.views = views

    def forward(self, x: Tensor) -> Tensor:
        """(rows, S^2, C) -> (rows, S^2, C)."""
        sequences = x.unflatten(0, (-1, DOMAINS)).flatten(1, 2)  # (G V, 2 S^2, C)
        out = self.attend(sequences).view(x.shape)
        return self._blend_face(out)

    def _blend_face(self, out: Tensor) -> Tensor:
        """Replace the head of view 0 by the mean of itself and of view 4 at a third of its size.

        A third of the size without antialias picks the middle one of every three pixels exactly.
        """
        size = int(out.shape[1] ** 0.5)
        head = size // 3
        pictures = out.view(-1, self.views, DOMAINS, size, size, out.shape[-1])
        front = pictures[:, 0, :, :head, head : size - head]  # (G, 2, h, h, C)
        face = pictures[:, BODY_VIEWS, :, 1::3, 1::3]
        front.copy_(torch.lerp(front, face, 0.5))
        return out


class RowwiseAttention(SelfAttention):
    """The tokens of one picture row in all four body views attend to each other."""

    def forward(self, grouped: Tensor) -> Tensor:
        """(G, 2, S, 4, S, C) -> the same shape."""
        return self.attend(grouped.flatten(3, 4).flatten(0, 2)).view(grouped.shape)


class GEGLU(nn.Module):
    """Linear layer to twice the width, one half gates the other."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., hidden)."""
        return geglu(self.proj(x))


class FeedForward(nn.Module):
    """GEGLU of four times the width, then a linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The middle entry stands where the official network has its dropout: keys count from it.
        self.net = nn.Sequential(
            GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.net(x)


class MultiviewBlock(nn.Module):
    """Joint-domain attention, row-wise attention over views, text attention, GEGLU."""

    def __init__(self, channels: int, heads: int, context_channels: int, views: int) -> None:
        super().__init__()
        self.views = views
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = JointDomainAttention(channels, heads, views)
        self.norm_mv = nn.LayerNorm(channels)
        self.attn_mv = RowwiseAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = CrossAttention(channels, context_channels, heads, channels // heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, text: TextKeys) -> Tensor:
        """Tokens (rows, S^2, C) and ``attn2.context_keys`` of the prompts -> (rows, S^2, C)."""
        h = self.attn1(self.norm1(x))
        x, h = add_norm_to_rowwise(x, h, self.norm_mv, self.views)
        x, h = add_rowwise_norm(x, self.attn_mv(h), self.norm2, self.views)
        x, h = add_norm(x, self.attn2(h, *text), self.norm3)
        return x + self.ff(h)
