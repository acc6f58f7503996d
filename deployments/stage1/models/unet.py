"""The picture half of the joint model: its blocks, built from configuration (model.md 6.3)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from deployments.stage1.models.config import JointModelConfig
from deployments.stage1.models.unet_blocks import (
    DownBlock,
    Downsample,
    MidBlock,
    MultiviewTransformer,
    ResnetBlock,
    UpBlock,
    Upsample,
)


def build_down_blocks(config: JointModelConfig) -> nn.ModuleList:
    """One block a level; all but the last end at half their size."""
    widths = config.block_out_channels
    blocks = []
    for level, (width, attention) in enumerate(zip(widths, config.down_has_attention, strict=True)):
        inputs = [widths[max(level - 1, 0)]] + [width] * (config.layers_per_block - 1)
        last = level == len(widths) - 1
        blocks.append(
            DownBlock(
                [_resnet(config, channels, width) for channels in inputs],
                [_transformer(config, level) for _ in inputs if attention],
                None if last else Downsample(width),
            )
        )
    return nn.ModuleList(blocks)


def build_mid_block(config: JointModelConfig) -> MidBlock:
    """The block at the smallest size."""
    width = config.block_out_channels[-1]
    level = len(config.block_out_channels) - 1
    return MidBlock(
        [_resnet(config, width, width) for _ in range(2)], [_transformer(config, level)]
    )


def build_up_blocks(config: JointModelConfig) -> nn.ModuleList:
    """One block a level from the smallest size up; all but the last end at twice their size."""
    widths = config.block_out_channels
    skips = _skip_widths(config)
    channels = widths[-1]
    blocks = []
    for index, attention in enumerate(config.up_has_attention):
        level = len(widths) - 1 - index
        resnets, attentions = [], []
        for _ in range(config.layers_per_block + 1):
            resnets.append(_resnet(config, channels + skips.pop(), widths[level]))
            channels = widths[level]
            if attention:
                attentions.append(_transformer(config, level))
        blocks.append(UpBlock(resnets, attentions, Upsample(channels) if level else None))
    return nn.ModuleList(blocks)


def residual_blocks(*parts: nn.Module) -> Iterator[ResnetBlock]:
    """The residual blocks of down, mid and up blocks in the order in which they run."""
    for part in parts:
        yield from (m for m in part.modules() if isinstance(m, ResnetBlock))


def transformers(*parts: nn.Module) -> Iterator[MultiviewTransformer]:
    """The transformers of down, mid and up blocks in the order in which they run."""
    for part in parts:
        yield from (m for m in part.modules() if isinstance(m, MultiviewTransformer))


def _skip_widths(config: JointModelConfig) -> list[int]:
    """Widths of the skip tensors in the order in which the down path makes them."""
    widths = config.block_out_channels
    skips = [widths[0]]
    for level, width in enumerate(widths):
        skips += [width] * (config.layers_per_block + (level < len(widths) - 1))
    return skips


def _resnet(config: JointModelConfig, channels: int, out_channels: int) -> ResnetBlock:
    return ResnetBlock(
        channels, out_channels, config.time_channels, config.norm_num_groups, config.norm_eps
    )


def _transformer(config: JointModelConfig, level: int) -> MultiviewTransformer:
    return MultiviewTransformer(
        config.block_out_channels[level],
        config.attention_head_dim[level],
        config.cross_attention_dim,
        config.num_views,
        config.norm_num_groups,
    )
