"""Sizes of the joint 2D-3D model, with the official values as defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from deployments.errors import CheckpointError

_CROSS_DOWN, _PLAIN_DOWN = "CrossAttnDownBlockMV2D", "DownBlock2D"
_CROSS_UP, _PLAIN_UP = "CrossAttnUpBlockMV2D", "UpBlock2D"

# Switches of the official schema that have one value in every checkpoint; another value would
# describe a network that this code does not build.
_FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "addition_downsample": False,
    "addition_embed_type": None,
    "cd_attention_last": False,
    "cd_attention_mid": False,
    "center_input_sample": False,
    "class_embed_type": "projection",
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlockMV2DCrossAttn",
    "multiview_attention": True,
    "mvcd_attention": True,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "num_dual_CrossAttblocks": 2,
    "only_cross_attention": False,
    "pe_mode": "ape",
    "qk_rms_norm_cross": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "selfattn_block": "self_rowwise",
    "share_mod": False,
    "sparse_mv_attention": True,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": 1,
    "use_dino": False,
    "use_linear_projection": True,
}


@dataclass(frozen=True)
class SyncConfig:
    """Where pictures and structure exchange features, and how wide (model.md 6.6, 6.7).

    Read from the optional ``"sync"`` object of config.json; the official tree has none and
    hard-codes the defaults.
    """

    ss_dims: tuple[int, int] = (640, 1280)  # picture widths of the two structure-side blocks
    mv_dim: int = 1280  # picture width of both image-side blocks
    structure_dim: int = 1024  # width of the flow's tokens
    heads: int = 16
    dim_head: int = 64
    structure_pixels: int = 24  # picture size at which the structure reads pictures
    image_pixels: int = 12  # picture size at which the pictures read the structure
    flow_splits: tuple[int, int] = (
        8,
        16,
    )  # flow blocks before UNet, up to after its middle

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SyncConfig:
        """Read the ``"sync"`` object; an unknown name is an error."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise CheckpointError(
                f'config.json: unknown names under "sync": {", ".join(sorted(unknown))}',
                code="checkpoint_config",
            )
        return cls(**{name: _frozen(value) for name, value in values.items()})


@dataclass(frozen=True)
class JointModelConfig:
    """Sizes of the multi-view UNet and the structure flow; names as in the official config.json."""

    sample_size: int = 96  # latent pixels a side
    in_channels: int = 8  # noisy latents and picture latents
    out_channels: int = 4
    num_views: int = 5
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = (_CROSS_DOWN, _CROSS_DOWN, _CROSS_DOWN, _PLAIN_DOWN)
    up_block_types: tuple[str, ...] = (_PLAIN_UP, _CROSS_UP, _CROSS_UP, _CROSS_UP)
    layers_per_block: int = 2
    attention_head_dim: tuple[int, ...] = (5, 10, 20, 20)  # the number of heads, by level
    cross_attention_dim: int = 1024
    projection_class_embeddings_input_dim: int = 2048
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    resolution: int = 16  # voxels a side of the structure latent
    patch_size: int = 1
    trellis_in_channels: int = 8
    trellis_out_channels: int = 8
    model_channels: int = 1024
    cond_channels: int = 1024
    num_blocks: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4
    qk_rms_norm: bool = True
    sync: SyncConfig = field(default_factory=SyncConfig)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> JointModelConfig:
        """Read config.json of the official schema.

        Fields of training and unknown ones are ignored, as the official loader does. Raises
        ``CheckpointError`` for values that describe another network than this one.
        """
        wrong = [
            f"{name} = {values[name]!r} (this network has {fixed!r})"
            for name, fixed in _FIXED.items()
            if name in values and values[name] != fixed
        ]
        if wrong:
            raise CheckpointError(
                f"config.json describes a network that is not implemented: {'; '.join(wrong)}",
                code="checkpoint_config",
            )
        known = {f.name for f in fields(cls)} - {"sync"}
        sizes = {name: _frozen(value) for name, value in values.items() if name in known}
        return cls(**sizes, sync=SyncConfig.from_dict(values.get("sync") or {}))

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        lengths = {
            len(self.down_block_types),
            len(self.up_block_types),
            len(self.attention_head_dim),
        }
        self._require(
            lengths == {levels},
            "block types and attention_head_dim must have one entry for each of the "
            f"{levels} levels of block_out_channels",
        )
        self._require(
            set(self.down_block_types) <= {_CROSS_DOWN, _PLAIN_DOWN}
            and set(self.up_block_types) <= {_CROSS_UP, _PLAIN_UP},
            f"unknown block type among {self.down_block_types + self.up_block_types}",
        )
        sizes = {self.sample_size >> level for level in range(levels)}
        odd = [size for size in self.attention_sizes if size % 3]
        self._require(
            not odd,
            f"the face blend needs attention sizes that are multiples of 3, got {odd}",
        )
        for name, pixels in (
            ("structure_pixels", self.sync.structure_pixels),
            ("image_pixels", self.sync.image_pixels),
        ):
            self._require(
                pixels in sizes and pixels != self.sample_size,
                f"sync.{name} = {pixels} is no size that a down block of a "
                f"{self.sample_size} px UNet with {levels} levels ends in: {sorted(sizes)}",
            )
        self._require(
            self.resolution % self.patch_size == 0,
            f"resolution {self.resolution} is no multiple of patch_size {self.patch_size}",
        )

    @staticmethod
    def _require(condition: bool, message: str) -> None:
        if not condition:
            raise CheckpointError(f"config.json: {message}", code="checkpoint_config")

    @property
    def token_grid(self) -> int:
        """Tokens a side of the structure flow."""
        return self.resolution // self.patch_size

    @property
    def time_channels(self) -> int:
        """Width of the UNet's time and class vectors."""
        return 4 * self.block_out_channels[0]

    @property
    def down_has_attention(self) -> tuple[bool, ...]:
        """By down block: whether it holds transformer blocks."""
        return tuple(kind == _CROSS_DOWN for kind in self.down_block_types)

    @property
    def up_has_attention(self) -> tuple[bool, ...]:
        """By up block: whether it holds transformer blocks."""
        return tuple(kind == _CROSS_UP for kind in self.up_block_types)

    @property
    def attention_sizes(self) -> tuple[int, ...]:
        """Picture sizes at which transformer blocks run."""
        last = len(self.block_out_channels) - 1
        down = {self.sample_size >> i for i, on in enumerate(self.down_has_attention) if on}
        up = {self.sample_size >> (last - i) for i, on in enumerate(self.up_has_attention) if on}
        return tuple(sorted(down | up | {self.sample_size >> last}))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
