"""The multi-view transformer block (model.md 6.4).

Rows of a picture batch are ordered (G, V, 2): guidance branch, view, domain (normal, colour). In
this order the sequences of the joint-domain attention are views of memory, and so are the normal
half that the structure reads and the four body views. Only the row-wise attention has to regroup.
"""

from __future__ import annotations

from torch import Tensor, nn

from deployments.layers.pointwise import (
    add_product,
    add_rowwise_norm,
    geglu,
    layer_norm,
    linear_geglu,
    mean_into,
    norm_shifted,
    norm_to_rowwise,
    takes_kernels,
)
from deployments.stage1.models.attention import CrossAttention, SelfAttention
from deployments.stage1.models.correspondence import BODY_VIEWS

DOMAINS = 2  # normal, colour
_WIDEST_BYTES = 256 * 2**20  # of what a feed-forward layer holds inside
TextKeys = tuple[Tensor, Tensor]  # keys and values of the prompt, each (rows, L, H, D)


class JointDomainAttention(SelfAttention):
    """Normal and colour tokens of a picture attend to each other; the face blends into view 0."""

    def __init__(self, channels: int, heads: int, views: int) -> None:
        super().__init__(channels, heads)
        self.views = views

    def forward(self, x: Tensor) -> Tensor:
        """(rows, S^2, C) -> (rows, S^2, C)."""
        return self.project(self.mix(x))

    def mix(self, x: Tensor) -> Tensor:
        """(rows, S^2, C) -> the same shape, before the output layer.

        That layer works on every token by itself, so blending before it is blending after it.
        """
        sequences = x.unflatten(0, (-1, DOMAINS)).flatten(1, 2)  # (G V, 2 S^2, C)
        return self.blend_face(super().mix(sequences).view(x.shape))

    def blend_face(self, out: Tensor) -> Tensor:
        """Replace the head of view 0 by the mean of itself and of view 4 at a third of its size.

        ``out`` (rows, S^2, C) is changed in place and returned.
        A third of the size without antialias picks the middle one of every three pixels exactly.
        """
        size = int(out.shape[1] ** 0.5)
        head = size // 3
        pictures = out.view(-1, self.views, DOMAINS, size, size, out.shape[-1])
        front = pictures[:, 0, :, :head, head : size - head]  # (G, 2, h, h, C)
        face = pictures[:, BODY_VIEWS, :, 1::3, 1::3]
        mean_into(front, face)
        return out


class RowwiseAttention(SelfAttention):
    """The tokens of one picture row in all four body views attend to each other."""

    def forward(self, grouped: Tensor) -> Tensor:
        """(G, 2, S, 4, S, C) -> the same shape."""
        return self.project(self.mix(grouped.flatten(3, 4).flatten(0, 2))).view(grouped.shape)


class GEGLU(nn.Module):
    """Linear layer to twice the width, one half gates the other."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., hidden)."""
        if isinstance(self.proj, nn.Linear):
            return linear_geglu(x, self.proj)
        return geglu(self.proj(x))  # a product in FP8


class FeedForward(nn.Module):
    """GEGLU of four times the width, then a linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The middle entry stands where the official network has its dropout: keys count from it.
        self.net = nn.Sequential(
            GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)
        )

    @property
    def out(self) -> nn.Linear:
        """The second linear layer."""
        return self.net[2]  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.net(x)

    def gated(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., 4 C): what the second linear layer takes."""
        return self.net[0](x)

    def add_to(self, x: Tensor, h: Tensor) -> Tensor:
        """x plus what ``h`` gives, both (rows, T, C), short of the last bias; may change ``x``.

        Inside, every token is eight times as wide: a few rows at a time keep that small.
        """
        row = 8 * h.element_size() * h[0].numel()
        at_once = max(1, _WIDEST_BYTES // row)
        if at_once >= len(x) or not takes_kernels(x):
            return add_product(x, self.gated(h), self.out.weight)
        for part, tokens in zip(x.split(at_once), h.split(at_once), strict=True):
            add_product(part, self.gated(tokens), self.out.weight)  # in place
        return x


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
        return self.without_last_bias(x, text) + self.last_bias()

    def last_bias(self) -> Tensor:
        """What ``without_last_bias`` leaves out, (C,)."""
        return self.attn2.out.bias + self.ff.out.bias

    def without_last_bias(self, x: Tensor, text: TextKeys) -> Tensor:
        """The block, short of a vector that is the same for all tokens; may change ``x`` itself.

        Products are added to the tokens where they are stored, without their bias. It joins the
        pass that reads the tokens next.
        """
        x = add_product(x, self.attn1.mix(layer_norm(x, self.norm1)), self.attn1.out.weight)
        bias = self.attn1.out.bias
        h = self.attn_mv(norm_to_rowwise(x, self.norm_mv, bias, self.views))
        x, h = add_rowwise_norm(x, h, self.norm2, bias, self.views)
        x = add_product(x, self.attn2.mix(h, *text), self.attn2.out.weight)
        h = norm_shifted(x, self.norm3, self.attn2.out.bias)
        return self.ff.add_to(x, h)
