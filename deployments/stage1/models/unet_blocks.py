"""The blocks of the multi-view UNet (model.md 6.3): residual, attention and resampling layers.

Pictures are (rows, C, S, S) in channels-last memory, so that their tokens (rows, S^2, C) are a
view. Where the pass that writes them knows their channels' moments, these travel with them to the
group norms that read them (``Measured``). What time and picture embedding add to a residual block
is computed for all steps beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.layers.group_norm import (
    Measured,
    add_bias,
    bias_measured,
    convolve_measured,
    group_norm,
    measure,
)
from deployments.layers.pointwise import add_product
from deployments.stage1.models.multiview_block import MultiviewBlock, TextKeys


class ResnetBlock(nn.Module):
    """Two convolutions behind norm and SiLU, a shift by time between them, and a shortcut."""

    def __init__(
        self, channels: int, out_channels: int, time_channels: int, groups: int, eps: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps=eps)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_channels, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = (
            nn.Conv2d(channels, out_channels, 1) if channels != out_channels else None
        )

    def time_shift(self, embedding: Tensor) -> Tensor:
        """Embedding (..., time_channels) -> what is added between the convolutions (..., C).

        It contains the bias of the first convolution.
        """
        return self.time_emb_proj(F.silu(embedding)) + self.conv1.bias

    def forward(
        self,
        x: Tensor | Measured,
        time_shift: Tensor,
        skip: Tensor | Measured | None = None,
        *,
        more_bias: Tensor | None = None,
    ) -> Measured:
        """(rows, C_in, S, S), (rows, C) -> (rows, C, S, S); ``skip`` holds the last of C_in.

        ``more_bias`` (C,) is added to the output.
        """
        # Both biases join passes that run anyway: the first is part of ``time_shift``.
        h = _convolve(self.conv1, group_norm(x, self.norm1, skip=skip))
        h = _convolve(self.conv2, group_norm(h, self.norm2, time_shift))
        bias: Tensor = self.conv2.bias  # type: ignore[assignment]
        joined = None if skip is None else Measured.of(skip).pixels
        return add_bias(h, bias, self._shortcut(Measured.of(x).pixels, joined), more_bias)

    def _shortcut(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Input and skip, which are never joined in memory, in the output's width."""
        layer = self.conv_shortcut
        if layer is None:
            return x if skip is None else torch.cat([x, skip], dim=1)
        weight = layer.weight.flatten(1)  # (C, C_in)
        width = x.shape[1]
        tokens = F.linear(_to_tokens(x), weight[:, :width], layer.bias)
        if skip is not None:
            tokens = add_product(tokens, _to_tokens(skip), weight[:, width:])
        return _to_pictures(tokens, x.shape[-1])


class MultiviewTransformer(nn.Module):
    """A multi-view block between two linear layers, behind a group norm, added to its input."""

    def __init__(
        self, channels: int, heads: int, context_channels: int, views: int, groups: int
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            [MultiviewBlock(channels, heads, context_channels, views)]
        )
        self.proj_out = nn.Linear(channels, channels)
        self._biases: tuple[Tensor, Tensor] | None = None  # ``last_bias`` and its negative, kept

    def fuse(self) -> None:
        """Compute once what depends on weights alone; they must not change afterwards."""
        with torch.no_grad():
            bias = self.last_bias()
            self._biases = (bias, -bias)

    @property
    def block(self) -> MultiviewBlock:
        """The one transformer block."""
        return self.transformer_blocks[0]  # type: ignore[return-value]

    def forward(self, x: Tensor | Measured, text: TextKeys, *, biased: bool = False) -> Tensor:
        """(rows, C, S, S) -> (rows, C, S, S).

        ``biased``: ``last_bias`` was added to the pictures already, which may be changed.
        """
        x = Measured.of(x)
        if not biased:
            x = Measured(x.pixels + self.last_bias()[:, None, None])
        shift = -self.last_bias() if self._biases is None else self._biases[1]
        shift = shift.expand(x.pixels.shape[0], -1)
        tokens = self.proj_in(_to_tokens(group_norm(x, self.norm, shift, silu=False)))
        tokens = self.block.without_last_bias(tokens, text)
        tokens = add_product(_to_tokens(x.pixels), tokens, self.proj_out.weight)
        return _to_pictures(tokens, x.pixels.shape[-1])

    def last_bias(self) -> Tensor:
        """What every pixel gets whatever the input is, (C,)."""
        if self._biases is not None:
            return self._biases[0]
        return self.proj_out(self.block.last_bias())


class Downsample(nn.Module):
    """Half the size by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Measured:
        """(rows, C, S, S) -> (rows, C, S/2, S/2)."""
        return convolve_measured(self.conv, x)


class Upsample(nn.Module):
    """Twice the size by repeating pixels, then a convolution.

    After ``fuse`` it is one transposed convolution with 16 taps a pixel in place of 36: repeated
    pixels under one kernel are one pixel under the sum of its weights.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self._transposed: Tensor | None = None

    def fuse(self) -> None:
        """Add up the weights; the module must stay on its device and in its dtype afterwards."""
        # Row t of ``sums`` says which taps of the convolution meet under tap t of the transposed.
        sums = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float32)
        weight = self.conv.weight.detach()
        sums = sums.to(weight.device)
        summed = sums @ weight.float().transpose(0, 1) @ sums.T  # (C_in, C_out, 4, 4)
        self._transposed = summed.to(weight.dtype).contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Measured:
        """(rows, C, S, S) -> (rows, C, 2 S, 2 S)."""
        if self._transposed is None:
            return Measured(self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        y = F.conv_transpose2d(x, self._transposed, None, stride=2, padding=1)
        bias: Tensor = self.conv.bias  # type: ignore[assignment]
        return bias_measured(y, bias)


class Conditions:
    """What the layers of one step take from it, handed out in the order in which they run."""

    def __init__(self, time_shifts: list[Tensor], text: list[TextKeys]) -> None:
        self._time_shifts: Iterator[Tensor] = iter(time_shifts)
        self._text: Iterator[TextKeys] = iter(text)

    def time_shift(self) -> Tensor:
        """For the next residual block: (rows, C)."""
        return next(self._time_shifts)

    def text(self) -> TextKeys:
        """For the next transformer: keys and values of the prompts."""
        return next(self._text)


class DownBlock(nn.Module):
    """Residual blocks, each followed by a transformer where there are any, then half the size."""

    def __init__(
        self,
        resnets: list[ResnetBlock],
        attentions: list[MultiviewTransformer],
        downsampler: Downsample | None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        if attentions:
            self.attentions = nn.ModuleList(attentions)
        if downsampler is not None:
            self.downsamplers = nn.ModuleList([downsampler])
        self.has_attention = bool(attentions)
        self.has_downsampler = downsampler is not None

    def forward(
        self, x: Tensor | Measured, conditions: Conditions
    ) -> tuple[Measured, list[Measured]]:
        """Returns the output and every skip, of which the output is the last.

        All are measured: the way up needs that of every one.
        """
        skips: list[Measured] = []
        out = Measured.of(x)
        for index, resnet in enumerate(self.resnets):
            if self.has_attention:
                out = measure(_followed(resnet, self.attentions[index], out, conditions))
            else:
                out = resnet(out, conditions.time_shift())
            skips.append(out)
        if self.has_downsampler:
            out = self.downsamplers[0](out.pixels)
            skips.append(out)
        return out, skips


class MidBlock(nn.Module):
    """Residual block, transformer, residual block at the smallest size."""

    def __init__(self, resnets: list[ResnetBlock], attentions: list[MultiviewTransformer]) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList(attentions)

    def forward(self, x: Tensor | Measured, conditions: Conditions) -> Measured:
        """(rows, C, S, S) -> (rows, C, S, S)."""
        x = _followed(self.resnets[0], self.attentions[0], x, conditions)
        return self.resnets[1](x, conditions.time_shift())


class UpBlock(nn.Module):
    """Residual blocks over output and skip, each with its transformer, then twice the size."""

    def __init__(
        self,
        resnets: list[ResnetBlock],
        attentions: list[MultiviewTransformer],
        upsampler: Upsample | None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        if attentions:
            self.attentions = nn.ModuleList(attentions)
        if upsampler is not None:
            self.upsamplers = nn.ModuleList([upsampler])
        self.has_attention = bool(attentions)
        self.has_upsampler = upsampler is not None

    def forward(
        self, x: Tensor | Measured, skips: list[Measured], conditions: Conditions
    ) -> Measured:
        """``skips`` is used up from its end."""
        for index, resnet in enumerate(self.resnets):
            if self.has_attention:
                x = _followed(resnet, self.attentions[index], x, conditions, skips.pop())
            else:
                x = resnet(x, conditions.time_shift(), skips.pop())
        x = Measured.of(x)
        return self.upsamplers[0](x.pixels) if self.has_upsampler else x


def _followed(
    resnet: nn.Module,
    transformer: nn.Module,
    x: Tensor | Measured,
    conditions: Conditions,
    skip: Tensor | Measured | None = None,
) -> Tensor:
    """A residual block and the transformer behind it.

    The transformer's last bias joins the pass that ends the residual block, so that its last
    product can be added to the pictures where they lie; the group norm in between takes it off.
    """
    assert isinstance(transformer, MultiviewTransformer)
    x = resnet(x, conditions.time_shift(), skip, more_bias=transformer.last_bias())
    y: Tensor = transformer(x, conditions.text(), biased=True)
    return y


def _convolve(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """The layer without its bias."""
    return F.conv2d(x, layer.weight, None, layer.stride, layer.padding)


def _to_tokens(pictures: Tensor) -> Tensor:
    return pictures.permute(0, 2, 3, 1).flatten(1, 2)


def _to_pictures(tokens: Tensor, size: int) -> Tensor:
    return tokens.view(tokens.shape[0], size, size, -1).permute(0, 3, 1, 2)
