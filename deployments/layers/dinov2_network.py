"""The vision transformer DINOv2 with registers (model.md 5.4), as far as its tokens are read.

Own code instead of the transformers library's, whose import takes several times as long as reading
these weights. Names of parameters are those of transformers 5; tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.checkpoints.library_config import read_sizes
from deployments.layers.attention.dense import sdpa

# Fields of config.json that have one value in every checkpoint of this method.
_FIXED: dict[str, Any] = {
    "hidden_act": "gelu",
    "num_channels": 3,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}


@dataclass(frozen=True)
class Dinov2Config:
    """Sizes; names and defaults are transformers', whose files leave out what is default."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: float = 4
    image_size: int = 224  # side of the pictures that the position table is made for
    patch_size: int = 16
    num_register_tokens: int = 4
    layer_norm_eps: float = 1e-6
    layerscale_value: float = 1.0  # what training starts from

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Dinov2Config:
        """Read config.json, whose further fields describe training or a library.

        :raises CheckpointError: for values that describe another network than this one.
        """
        names = [field.name for field in fields(cls)]
        return cls(**read_sizes(values, names, network="DINOv2", fixed=_FIXED))


class Dinov2Network(nn.Module):
    """Parts of the network; deployments/layers/dinov2.py runs them in the two ways needed."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Dinov2Embeddings(config)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(
            Dinov2Block(config) for _ in range(config.num_hidden_layers)
        )
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks in their order."""
        return self.encoder.layer  # type: ignore[return-value]


class _Patches(nn.Module):
    """Pictures to one token a patch, without positions."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        size = config.patch_size
        self.projection = nn.Conv2d(3, config.hidden_size, size, stride=size)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H/patch * W/patch, D), rows first."""
        return self.projection(pixels).flatten(2).transpose(1, 2)


class Dinov2Embeddings(nn.Module):
    """What tokens are made of before the first block. Its own parameters are left empty."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        width = config.hidden_size
        places = (config.image_size // config.patch_size) ** 2
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.mask_token = nn.Parameter(torch.empty(1, width))  # of its training
        self.position_embeddings = nn.Parameter(torch.empty(1, 1 + places, width))  # class first
        self.register_tokens = nn.Parameter(torch.empty(1, config.num_register_tokens, width))
        self.patch_embeddings = _Patches(config)


class Dinov2Block(nn.Module):
    """Attention and two layers with GELU, each behind a norm and scaled before it is added."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = _Attention(width, config.num_attention_heads)
        self.layer_scale1 = _Scale(width, config.layerscale_value)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = _FeedForward(width, int(width * config.mlp_ratio))
        self.layer_scale2 = _Scale(width, config.layerscale_value)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.layer_scale1(self.attention(self.norm1(x)))
        return x + self.layer_scale2(self.mlp(self.norm2(x)))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.o_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1))  # (B, T, H, D / H)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.o_proj(sdpa(q, k, v).flatten(-2))


class _Scale(nn.Module):
    """A factor for every channel."""

    def __init__(self, width: int, value: float) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.empty(width).fill_(value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.lambda1


class _FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.fc2(F.gelu(self.fc1(x)))
