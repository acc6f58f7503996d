"""CLIP's vision tower with projection (model.md 5.1): a picture to one vector.

Own code instead of the transformers library's, whose import takes several times as long as reading
these weights. Names of parameters are the library's, its misspelling included; tests hold the two
together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.checkpoints.library_config import read_sizes
from deployments.errors import CheckpointError
from deployments.layers.attention.dense import sdpa

_ACTIVATIONS = ("gelu", "quick_gelu")


@dataclass(frozen=True)
class ClipVisionConfig:
    """Sizes; names and defaults are transformers', whose files leave out what is default."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    projection_dim: int = 512
    hidden_act: str = "quick_gelu"  # the logistic approximation; gelu in ViT-H/14
    layer_norm_eps: float = 1e-5

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClipVisionConfig:
        """Read config.json, whose further fields describe training or a library.

        :raises CheckpointError: for an activation that this network does not have.
        """
        names = [field.name for field in fields(cls)]
        config = cls(**read_sizes(values, names, network="the CLIP encoder", fixed={}))
        if config.hidden_act not in _ACTIVATIONS:
            raise CheckpointError(
                f"config.json of the CLIP encoder: hidden_act is {config.hidden_act!r}, this "
                f"network has {' or '.join(_ACTIVATIONS)}",
                code="checkpoint_config",
            )
        return config


class ClipVision(nn.Module):
    """Patches and a class token through a transformer; the class token is projected."""

    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = _Tower(config)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S) of the config's size -> (B, E), not normalised."""
        return self.visual_projection(self.vision_model(pixels))


class _Tower(nn.Module):
    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.embeddings = ClipEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(width, eps=eps)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(_Block(config) for _ in range(config.num_hidden_layers))
        self.post_layernorm = nn.LayerNorm(width, eps=eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D), the class token behind the last block."""
        x = self.pre_layrnorm(self.embeddings(pixels))
        for block in self.encoder.layers:  # type: ignore[union-attr]
            x = block(x)
        return self.post_layernorm(x[:, 0])


class ClipEmbeddings(nn.Module):
    """What tokens are made of before the first block. The class token is left empty."""

    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        width, size = config.hidden_size, config.patch_size
        places = 1 + (config.image_size // size) ** 2
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.patch_embedding = nn.Conv2d(3, width, size, stride=size, bias=False)
        self.position_embedding = ClipPositions(places, width)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> tokens (B, 1 + (S/patch)^2, D), the class token first."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class ClipPositions(nn.Module):
    """A vector for every place, left empty."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        # Not nn.Embedding: without memory its normal start makes torch import its compiler.
        self.weight = nn.Parameter(torch.empty(places, width))


class _Block(nn.Module):
    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.self_attn = _Attention(width, config.num_attention_heads)
        self.layer_norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = _FeedForward(config)
        self.layer_norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1))  # (B, T, H, D / H)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(sdpa(q, k, v).flatten(-2))


class _FeedForward(nn.Module):
    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        self.quick = config.hidden_act == "quick_gelu"
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        h = self.fc1(x)
        return self.fc2(h * torch.sigmoid(1.702 * h) if self.quick else F.gelu(h))
