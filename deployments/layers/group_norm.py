"""Group norms over pictures and volumes, and the passes in front of them.

A group norm reads its input twice: for its moments, and to scale it. Passes of ours that write what
such a norm reads next find the moments of every channel while they hold the pixels (``Measured``);
moments of channels can be joined to those of any groups, so a skip is measured once for the norm on
the way down and the one on the way up. The bodies here are plain torch, where the norm finds its
moments itself; on a GPU deployments/layers/group_norm_triton.py takes over (see pointwise.py).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.layers.pointwise import takes_kernels

CHUNK = 128  # pixels of a moment; so many at most are added up before they are joined
Moments = tuple[Tensor, Tensor]  # means, sums of squared deviations: (N, chunks, C), float32


class Measured(NamedTuple):
    """Pictures or volumes with the moments of their channels, where they are known.

    Moments belong to the pixels as they are: what changes these makes a new object.
    """

    pixels: Tensor  # (N, C, ...)
    moments: Moments | None = None

    @classmethod
    def of(cls, x: Tensor | Measured) -> Measured:
        """The same; a tensor is not measured yet."""
        return cls(x) if isinstance(x, Tensor) else x


def measure(x: Tensor) -> Measured:
    """``x`` (N, C, ...) for more than one norm; measured only where a kernel asks for it."""
    if not takes_kernels(x):
        return Measured(x)
    x = _channels_last(x)
    return Measured(x, channel_moments(x))


def channel_moments(x: Tensor) -> Moments:
    """Means and sums of squared deviations of every channel over each ``CHUNK`` pixels.

    Of (N, C, ...) in row-major order of the pixels, each (N, chunks, C) in float32; the last chunk
    may have fewer pixels.
    """
    if takes_kernels(x):
        from deployments.layers import group_norm_triton as kernels

        return kernels.moments_of(_channels_last(x))
    chunks = x.flatten(2).float().split(CHUNK, dim=2)
    means = torch.stack([chunk.mean(2) for chunk in chunks], dim=1)
    squares = [chunk.var(2, correction=0) * chunk.shape[2] for chunk in chunks]
    return means, torch.stack(squares, dim=1)


def group_norm(
    x: Tensor | Measured,
    norm: nn.GroupNorm,
    shift: Tensor | None = None,
    *,
    skip: Tensor | Measured | None = None,
    silu: bool = True,
) -> Tensor:
    """SiLU(GN([x, skip] + shift)): pictures or volumes (N, C, ...), shift (N, C).

    ``skip`` holds the channels behind those of ``x``: the two are joined by what is written.
    """
    parts = [Measured.of(part) for part in (x, skip) if part is not None]
    if takes_kernels(parts[0].pixels):
        from deployments.layers import group_norm_triton as kernels

        pixels = [_channels_last(part.pixels) for part in parts]
        moments = [
            kernels.moments_of(one) if part.moments is None else part.moments
            for one, part in zip(pixels, parts, strict=True)
        ]
        return kernels.group_norm(
            pixels, moments, norm.weight, norm.bias, norm.num_groups, norm.eps, shift, silu=silu
        )
    joined = parts[0].pixels if skip is None else torch.cat([p.pixels for p in parts], dim=1)
    if shift is not None:
        joined = joined + shift.view(*shift.shape, *[1] * (joined.ndim - 2))
    y: Tensor = norm(joined)
    return F.silu(y) if silu else y


def add_bias(h: Tensor, bias: Tensor, x: Tensor, more: Tensor | None = None) -> Measured:
    """h + bias + x: pictures (N, C, H, W), bias (C,). ``more`` (C,) is added to the bias."""
    if takes_kernels(x):
        from deployments.layers import group_norm_triton as kernels

        h, x = _channels_last(h), _channels_last(x)
        out = torch.empty_like(x)
        return Measured(out, kernels.moments_of(h, bias, x, more, out))
    bias = bias if more is None else bias + more
    return Measured(h + bias[:, None, None] + x)


def bias_measured(x: Tensor, bias: Tensor) -> Measured:
    """x + bias: pictures (N, C, H, W), bias (C,). May return ``x`` itself, changed."""
    if takes_kernels(x):
        from deployments.layers import group_norm_triton as kernels

        x = _channels_last(x)
        return Measured(x, kernels.moments_of(x, bias, out=x))
    return Measured(x + bias[:, None, None])


def convolve_measured(layer: nn.Conv2d, x: Tensor) -> Measured:
    """The convolution with its bias: pictures (N, C, H, W)."""
    if not takes_kernels(x) or layer.bias is None:
        return Measured(layer(x))
    y = F.conv2d(x, layer.weight, None, layer.stride, layer.padding)
    return bias_measured(y, layer.bias)


def _channels_last(x: Tensor) -> Tensor:
    layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return x.contiguous(memory_format=layout)
