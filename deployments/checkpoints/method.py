"""What the method needs to know about a checkpoint before any network is built; free of torch.

A tree says it in ``synchuman.json`` at its root. The official tree has no such file: there the
defaults hold, and ``SecondStage/pipeline.json`` gives the sampler and the latent statistics.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from deployments.errors import CheckpointError

METHOD_FILE = "synchuman.json"
PIPELINE_FILE = "SecondStage/pipeline.json"


@dataclass(frozen=True)
class MethodConfig:
    """Sizes and sampler defaults of a checkpoint; the defaults are the official values.

    Sources: picture sizes model.md 4 and 5.4, guidance and time rescaling model.md 7 and 12, latent
    statistics model.md 12. Sizes are pixels (or voxels) a side.

    ``noise_scales`` multiply the noise that Stage 1 starts from: that of the normal maps, of the
    colour pictures and of the structure, each 0..1. Below 1 a run stays nearer to what is likely:
    outlines and depth scatter less about the truth, patterns lose contrast. It is the temperature
    of Kingma and Dhariwal's Glow (2018, section 6), applied to the start of the flow.
    ``stage2_noise_scale`` is the same for the latents of Stage 2.
    """

    picture_size: int = 768
    condition_size: int = 518
    feature_size: int = 896
    feature_layers: tuple[int, ...] = (4, 11, 17, 23)
    voxel_grid: int = 64
    guidance: float = 3.0
    rescale_t: float = 3.0
    noise_scales: tuple[float, float, float] = (1.0, 1.0, 1.0)
    stage2_guidance: float = 5.0
    stage2_guidance_interval: tuple[float, float] = (0.5, 1.0)
    stage2_rescale_t: float = 3.0
    stage2_noise_scale: float = 1.0
    latent_mean: tuple[float, ...] = (
        -2.1687545776367188,
        -0.004347046371549368,
        -0.13352349400520325,
        -0.08418072760105133,
        -0.5271206498146057,
        0.7238689064979553,
        -1.1414450407028198,
        1.2039363384246826,
    )
    latent_std: tuple[float, ...] = (
        2.377650737762451,
        2.386378288269043,
        2.124418020248413,
        2.1748552322387695,
        2.663944721221924,
        2.371192216873169,
        2.6217446327209473,
        2.684523105621338,
    )

    def __post_init__(self) -> None:
        for name in ("picture_size", "condition_size", "feature_size", "voxel_grid"):
            if getattr(self, name) <= 0:
                raise CheckpointError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.picture_size % 3:
            raise CheckpointError(
                f"picture_size is {self.picture_size}; the face picture is the top centre third of "
                "the front picture, so it must be a multiple of 3"
            )
        scales = (*self.noise_scales, self.stage2_noise_scale)
        if len(scales) != 4 or not all(0 <= scale <= 1 for scale in scales):
            raise CheckpointError(
                f"noise_scales is {self.noise_scales} and stage2_noise_scale "
                f"{self.stage2_noise_scale}; the first needs three values, for normal maps, colours"
                " and structure, and all of them lie in 0..1"
            )
        if len(self.latent_mean) != len(self.latent_std):
            raise CheckpointError(
                f"latent_mean has {len(self.latent_mean)} values and latent_std "
                f"{len(self.latent_std)}; both need one value per latent channel"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MethodConfig:
        """Build from JSON values; lists become tuples, a field that does not exist is an error."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise CheckpointError(
                f"{METHOD_FILE} has fields that do not exist: {', '.join(unknown)}; "
                f"known are {', '.join(sorted(known))}"
            )
        frozen: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**frozen)

    @classmethod
    def from_tree(cls, root: Path | str) -> MethodConfig:
        """Read the tree at ``root``: ``synchuman.json`` wins over ``SecondStage/pipeline.json``."""
        values = _pipeline_values(Path(root) / PIPELINE_FILE)
        own = Path(root) / METHOD_FILE
        if own.is_file():
            values.update(read_json(own))
        return cls.from_dict(values)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, or raise a CheckpointError that names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} can not be read as JSON: {error}", path=str(path)) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object", path=str(path))
    return value


def _pipeline_values(path: Path) -> dict[str, Any]:
    """The MethodConfig fields that the official Stage 2 pipeline index holds."""
    if not path.is_file():
        return {}
    arguments = read_json(path).get("args", {})
    sampler = arguments.get("slat_sampler", {}).get("params", {})
    statistics = arguments.get("slat_normalization", {})
    found = {
        "stage2_guidance": sampler.get("cfg_strength"),
        "stage2_guidance_interval": sampler.get("cfg_interval"),
        "stage2_rescale_t": sampler.get("rescale_t"),
        "latent_mean": statistics.get("mean"),
        "latent_std": statistics.get("std"),
    }
    return {name: value for name, value in found.items() if value is not None}
