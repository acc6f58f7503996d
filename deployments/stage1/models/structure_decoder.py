"""Structure latent to occupancy: a dense 3-D convolutional decoder (model.md 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from deployments.layers.voxels import pixel_shuffle_3d


@dataclass(frozen=True)
class StructureDecoderConfig:
    """Sizes, official values as defaults. ``channels`` are the widths from the coarsest grid up."""

    out_channels: int = 1
    latent_channels: int = 8
    num_res_blocks: int = 2
    num_res_blocks_middle: int = 2
    channels: tuple[int, ...] = (512, 128, 32)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StructureDecoderConfig:
        """Read the ``args`` of config.json; ``use_fp16`` is a matter of loading."""
        sizes = {key: value for key, value in values.items() if key != "use_fp16"}
        sizes["channels"] = tuple(sizes["channels"])
        return cls(**sizes)


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of every voxel."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) -> (B, C, X, Y, Z)."""
        y = super().forward(x.permute(0, 2, 3, 4, 1).to(self.weight.dtype))
        return y.permute(0, 4, 1, 2, 3).to(x.dtype)


class ResidualBlock(nn.Module):
    """Two convolutions, each behind norm and SiLU, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = ChannelLayerNorm(channels)
        self.norm2 = ChannelLayerNorm(channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) -> (B, C, X, Y, Z)."""
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Upsample(nn.Module):
    """Twice the resolution: a convolution to eight times the channels, shuffled into space."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 8 * out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, R, R, R) -> (B, C', 2 R, 2 R, 2 R)."""
        return pixel_shuffle_3d(self.conv(x), 2)


class StructureDecoder(nn.Module):
    """(B, C, R, R, R) -> occupancy logits (B, 1, 2^ups R, ...), a voxel is occupied above zero."""

    def __init__(self, config: StructureDecoderConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.channels
        self.input_layer = nn.Conv3d(config.latent_channels, widths[0], 3, padding=1)
        self.middle_block = nn.Sequential(
            *(ResidualBlock(widths[0]) for _ in range(config.num_res_blocks_middle))
        )
        blocks: list[nn.Module] = []
        for level, width in enumerate(widths):
            blocks += [ResidualBlock(width) for _ in range(config.num_res_blocks)]
            if level + 1 < len(widths):
                blocks.append(Upsample(width, widths[level + 1]))
        self.blocks = nn.Sequential(*blocks)
        self.out_layer = nn.Sequential(
            ChannelLayerNorm(widths[-1]),
            nn.SiLU(),
            nn.Conv3d(widths[-1], config.out_channels, 3, padding=1),
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Latent (B, C, R, R, R) -> logits."""
        h = self.input_layer(latent.to(self.input_layer.weight.dtype))
        return self.out_layer(self.blocks(self.middle_block(h)))


def occupied_voxels(logits: Tensor) -> Tensor:
    """Logits (1, 1, N, N, N) -> x, y, z of every occupied voxel, int32 (M, 3), row-major order."""
    return (logits[0, 0] > 0).nonzero().int()
