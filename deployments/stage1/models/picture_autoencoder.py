"""The autoencoder of Stable Diffusion 2.1-unclip (model.md 5.2 and 9): pictures to latents, back.

Own code instead of the diffusers library's, whose import takes several times as long as reading
these weights. Names of parameters are the library's; tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from deployments.checkpoints.library_config import read_sizes
from deployments.layers.attention.dense import sdpa

_EPS = 1e-6
# Fields of config.json that have one value in every checkpoint of this method.
_FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "in_channels": 3,
    "out_channels": 3,
    "latents_mean": None,
    "mid_block_add_attention": True,
    "shift_factor": None,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes; names and defaults are diffusers'."""

    block_out_channels: tuple[int, ...] = (64,)  # finest first
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215  # latents times this have unit deviation

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AutoencoderConfig:
        """Read config.json, whose further fields describe training or a library.

        :raises CheckpointError: for values that describe another network than this one.
        """
        levels = len(values.get("block_out_channels", cls.block_out_channels))
        blocks = {
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
        }
        names = [field.name for field in fields(cls)]
        network = "the picture autoencoder"
        return cls(**read_sizes(values, names, network=network, fixed=_FIXED | blocks))


class PictureAutoencoder(nn.Module):
    """Both halves; latents here are not scaled."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        latent = config.latent_channels
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)

    def moments(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in -1..1 -> mean and log variance of the latents, each (B, 4, H/8, W/8)."""
        mean, log_variance = self.quant_conv(self.encoder(pictures)).chunk(2, dim=1)
        return mean, log_variance

    def encode(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> the likeliest latents (B, 4, H/8, W/8)."""
        return self.moments(pictures)[0]

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 4, h, w) -> pictures (B, 3, 8h, 8w), about -1..1."""
        return self.decoder(self.post_quant_conv(latents))


class _Encoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for level, (before, width) in enumerate(pairwise((widths[0], *widths))):
            block = _level(before, width, config.layers_per_block, groups)
            if level < len(widths) - 1:
                block.downsamplers = nn.ModuleList([_Downsample(width)])
            self.down_blocks.append(block)
        self.mid_block = _Middle(widths[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 8, H/8, W/8)."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = _through(x, block, "downsamplers")
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class _Decoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.up_blocks = nn.ModuleList()
        for level, (before, width) in enumerate(pairwise((widths[0], *widths))):
            block = _level(before, width, config.layers_per_block + 1, groups)
            if level < len(widths) - 1:
                block.upsamplers = nn.ModuleList([_Upsample(width)])
            self.up_blocks.append(block)
        self.mid_block = _Middle(widths[0], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4, h, w) -> (B, 3, 8h, 8w)."""
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = _through(x, block, "upsamplers")
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def _level(before: int, width: int, layers: int, groups: int) -> nn.Module:
    """Residual blocks at one resolution; the first one changes the width."""
    block = nn.Module()
    block.resnets = nn.ModuleList(
        _Residual(width if layer else before, width, groups) for layer in range(layers)
    )
    return block


def _through(x: Tensor, block: nn.Module, resampling: str) -> Tensor:
    for part in (*block.resnets, *getattr(block, resampling, ())):  # type: ignore[misc]
        x = part(x)
    return x


class _Middle(nn.Module):
    """Residual block, attention among all pixels, residual block."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([_Attention(width, groups)])
        self.resnets = nn.ModuleList(_Residual(width, width, groups) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        for part in (self.resnets[0], self.attentions[0], self.resnets[1]):
            x = part(x)
        return x


class _Residual(nn.Module):
    """Two convolutions, each behind norm and SiLU, added to the input."""

    def __init__(self, before: int, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, before, eps=_EPS)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width, eps=_EPS)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        if before != width:
            self.conv_shortcut = nn.Conv2d(before, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x) + h


class _Attention(nn.Module):
    """Every pixel attends to every other, in one head, added to the input."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, eps=_EPS)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)  # (B, H W, C)
        q, k, v = (layer(tokens)[:, :, None] for layer in (self.to_q, self.to_k, self.to_v))
        mixed = self.to_out[0](sdpa(q, k, v)[:, :, 0])
        return x + mixed.transpose(1, 2).reshape(x.shape)


class _Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2); the padding is on the right and below only."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
