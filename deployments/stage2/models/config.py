"""Sizes of the Stage 2 networks: names as in official config.json, official values as defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from deployments.errors import CheckpointError

ConfigT = TypeVar("ConfigT")


def _read(
    cls: type[ConfigT],
    values: Mapping[str, Any],
    fixed: Mapping[str, Any],
    ignored: tuple[str, ...] = (),
) -> ConfigT:
    """Build ``cls`` from JSON; refuse unknown names and networks that this code does not build."""
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    rest = {name: value for name, value in values.items() if name not in known}
    for name, value in rest.items():
        if name in fixed and value != fixed[name]:
            raise CheckpointError(
                f"config.json of {cls.__name__}: {name} is {value!r}, "
                f"only {fixed[name]!r} is known",
                code="checkpoint_config",
            )
    unknown = sorted(set(rest) - set(fixed) - set(ignored))
    if unknown:
        raise CheckpointError(
            f"config.json of {cls.__name__}: unknown names {', '.join(unknown)}",
            code="checkpoint_config",
        )
    frozen = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name in known
    }
    return cls(**frozen)


@dataclass(frozen=True)
class LatentFlowConfig:
    """The flow over sparse latents (model.md 12)."""

    resolution: int = 64  # voxels a side
    in_channels: int = 8
    out_channels: int = 8
    model_channels: int = 1024
    cond_channels: int = 1024  # width of the picture condition's tokens
    num_blocks: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4
    num_io_res_blocks: int = 2  # residual blocks before and after the transformer
    io_block_channels: tuple[int, ...] = (128,)  # width at full resolution
    qk_rms_norm: bool = True

    def __post_init__(self) -> None:
        if len(self.io_block_channels) != 1:
            raise CheckpointError(
                f"io_block_channels is {self.io_block_channels}: one level of down-sampling is"
                " what the method has",
                code="checkpoint_config",
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatentFlowConfig:
        """Read the ``args`` of config.json; a network of another kind raises CheckpointError."""
        fixed = {
            "patch_size": 2,
            "pe_mode": "ape",
            "qk_rms_norm_cross": False,
            "share_mod": False,
            "use_skip_connection": True,
        }
        return _read(cls, values, fixed, ignored=("use_fp16", "use_checkpoint"))


@dataclass(frozen=True)
class TrunkConfig:
    """What both decoders share (model.md 13)."""

    resolution: int = 64  # voxels a side
    model_channels: int = 768
    latent_channels: int = 8
    num_blocks: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4
    window_size: int = 8  # voxels a side of an attention window
    mv_dim: int = 1024  # width per view of the picture features inside the blocks
    # Which feature cell a voxel reads. "official": cells and voxels have the same pitch, whatever
    # the resolution (row = 63 - z on the official 64 px grid). "scaled": the two grids cover the
    # same cube, whatever their sizes; for equal sizes that is the same.
    feature_map: str = "official"

    def __post_init__(self) -> None:
        if self.feature_map not in ("official", "scaled"):
            raise CheckpointError(
                f"feature_map is {self.feature_map!r}: choose official or scaled",
                code="checkpoint_config",
            )

    @property
    def feature_channels(self) -> int:
        """Channels of the picture features: four encoder layers side by side."""
        return 4 * self.mv_dim


_TRUNK_FIXED = {
    "attn_mode": "swin",
    "mv_condition_mode": "4_view",
    "pe_mode": "ape",
    "qk_rms_norm": False,
    "use_faceinfo": False,
    "use_multiscale": True,
}
_TRUNK_IGNORED = ("use_fp16", "use_checkpoint")


@dataclass(frozen=True)
class GaussianConfig:
    """How decoder channels become Gaussians (model.md 14)."""

    num_gaussians: int = 32  # per voxel
    voxel_size: float = 1.5  # a Gaussian may leave its voxel by a quarter of its size
    perturb_offset: bool = True  # start from low-discrepancy places inside the voxel
    minimum_scale: float = 9e-4  # "3d_filter_kernel_size"
    scaling_bias: float = 4e-3
    opacity_bias: float = 0.1
    rates: tuple[tuple[str, float], ...] = (
        ("_xyz", 1.0),
        ("_features_dc", 1.0),
        ("_scaling", 1.0),
        ("_rotation", 0.1),
        ("_opacity", 1.0),
    )  # "lr": factor on the raw channels of each field

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GaussianConfig:
        """Read ``representation_config``; the 2-D filter is the renderer's and is not used."""
        given = dict(values)
        if "lr" in given:
            given["rates"] = tuple({**dict(cls.rates), **given.pop("lr")}.items())
        if "3d_filter_kernel_size" in given:
            given["minimum_scale"] = given.pop("3d_filter_kernel_size")
        fixed = {"scaling_activation": "softplus"}
        return _read(cls, given, fixed, ignored=("2d_filter_kernel_size",))


@dataclass(frozen=True)
class GaussianDecoderConfig(TrunkConfig):
    """The Gaussian decoder."""

    representation_config: GaussianConfig = field(default_factory=GaussianConfig)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GaussianDecoderConfig:
        """Read the ``args`` of config.json; a network of another kind raises CheckpointError."""
        given = dict(values)
        if "representation_config" in given:
            given["representation_config"] = GaussianConfig.from_dict(
                given["representation_config"]
            )
        return _read(cls, given, _TRUNK_FIXED, _TRUNK_IGNORED)


@dataclass(frozen=True)
class MeshDecoderConfig(TrunkConfig):
    """The mesh decoder."""

    use_color: bool = True  # 48 colour channels after the 53 of the geometry

    @property
    def out_channels(self) -> int:
        """sdf 8, deform 24, weights 21, colour 48 (model.md 15)."""
        return 101 if self.use_color else 53

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MeshDecoderConfig:
        """Read the ``args`` of config.json; a network of another kind raises CheckpointError."""
        given = dict(values)
        representation = dict(given.pop("representation_config", {}))
        if "use_color" in representation:
            given["use_color"] = representation.pop("use_color")
        if representation:
            raise CheckpointError(
                f"representation_config has unknown names {', '.join(sorted(representation))}",
                code="checkpoint_config",
            )
        return _read(cls, given, _TRUNK_FIXED, _TRUNK_IGNORED)
