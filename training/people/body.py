"""The body file: shapes, joints, weights and faces of the human surface (``body.npz``).

Template space: height 1, feet at z = 0, facing -y, x to the subject's left, A-pose.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

BODY_FILE = Path(__file__).with_name("body.npz")

# Bones that make up a paintable region, by prefix of their name.
REGIONS = {
    "torso": ("root", "pelvis", "spine", "clavicle"),
    "upper_arm": ("upperarm",),
    "forearm": ("lowerarm",),
    "hand": ("wrist",),
    "leg": ("upperleg", "lowerleg"),
    "foot": ("foot",),
    "neck": ("neck01",),
    "head": ("neck03", "head"),
}


@dataclass(frozen=True)
class Body:
    """Everything that all people share; V vertices, J joints, K components, F faces."""

    mean: torch.Tensor  # (V + J, 3) vertices, then joint heads
    basis: torch.Tensor  # (K, V + J, 3)
    coefficients: torch.Tensor  # (3000, K) of the exported bodies, unit variance
    weights: torch.Tensor  # (V, J) rows sum to 1
    faces: torch.Tensor  # (F, 3) int64, counter-clockwise from outside
    parents: tuple[int, ...]  # -1 for the root; parents come before children
    bones: tuple[str, ...]
    template: torch.Tensor  # (V, 3) the mean body with z in 0..1
    regions: dict[str, torch.Tensor]  # (V,) share of a region's bones in a vertex

    @property
    def vertices(self) -> int:
        return self.weights.shape[0]

    def bone(self, name: str) -> int:
        return self.bones.index(name)


def load_body(device: torch.device | str = "cpu", path: Path = BODY_FILE) -> Body:
    """Read the body file onto a device."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(arrays[name].astype(np.float32)).to(device)

    bones = tuple(str(bone) for bone in arrays["bones"])
    weights = tensor("weights")
    weights = weights / weights.sum(1, keepdim=True)
    mean = tensor("mean")
    template = mean[: len(weights)].clone()
    template[:, 2] -= template[:, 2].min()
    template /= template[:, 2].max()
    regions = {
        region: weights[:, [i for i, bone in enumerate(bones) if bone.startswith(prefixes)]].sum(1)
        for region, prefixes in REGIONS.items()
    }
    return Body(
        mean=mean,
        basis=tensor("basis_mm") / 1000,
        coefficients=tensor("coefficients"),
        weights=weights,
        faces=torch.from_numpy(arrays["faces"].astype(np.int64)).to(device),
        parents=tuple(int(parent) for parent in arrays["parents"]),
        bones=bones,
        template=template,
        regions=regions,
    )
