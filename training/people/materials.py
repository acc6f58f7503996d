"""Which material a point of the body is: a rule over template positions, evaluated at every pixel.

Garment borders are therefore sharp at any resolution and need no texture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from training.people.body import Body
from training.people.wardrobe import Material, Wardrobe

NECK_Z = 0.875  # the head begins here


@dataclass(frozen=True)
class Surface:
    """Attributes of surface points that garments and paint are functions of; all the same shape."""

    x: torch.Tensor
    y: torch.Tensor
    z: torch.Tensor
    trunk: torch.Tensor  # bone weight shares, 0..1
    arm: torch.Tensor  # without the hand, which no sleeve covers
    leg: torch.Tensor
    head: torch.Tensor
    sheet: torch.Tensor  # 0 body, 1 skirt, 2 locks

    @staticmethod
    def unpack(attributes: torch.Tensor) -> Surface:
        """From (..., 8), the last axis as ``body_attributes`` packs it."""
        return Surface(*attributes.unbind(-1))


def body_attributes(body: Body) -> torch.Tensor:
    """(V, 8) attributes of the body's vertices in the order of ``Surface``."""
    regions = body.regions
    arm = regions["upper_arm"] + regions["forearm"]
    leg = regions["leg"] + regions["foot"]
    head = regions["head"] + 0.5 * regions["neck"]
    rest = torch.zeros_like(arm)
    columns = [*body.template.unbind(1), regions["torso"], arm, leg, head, rest]
    return torch.stack(columns, 1)


def materials(point: Surface, wear: Wardrobe) -> torch.Tensor:
    """int64 Material of every point; ``wear`` holds one row a point (or broadcasts)."""
    reach = point.x.abs()
    covered = point.trunk + point.arm + point.leg > 0.5
    limb = point.arm > 0.5
    cut = wear.neckline * (0.055 - reach).clamp(min=0) * (point.y < -0.005)
    above_hem = (point.z > wear.hem) | limb
    top = covered & above_hem & (reach < wear.sleeve) & (point.z < wear.collar - cut)
    top &= point.head < 0.6
    bottom = covered & ~limb & (point.z > wear.trousers) & (point.z < 0.63)
    shoes = (point.z < wear.shoes) & (point.leg > 0.5)
    crown = point.z > wear.hairline + 0.25 * (0.03 - reach).clamp(min=0)
    behind = (point.y > -0.035 + 0.4 * (0.045 - reach)) & (point.z > wear.nape)
    jaw = wear.beard & (point.y < -0.03) & (point.z < 0.9) & (point.z > NECK_Z - 0.02)
    hair = (point.head > 0.55) & (crown | behind | jaw)

    result = torch.zeros_like(point.z, dtype=torch.int64)
    result = torch.where(bottom, Material.BOTTOM, result)
    result = torch.where(top, Material.TOP, result)
    result = torch.where(shoes, Material.SHOES, result)
    result = torch.where(hair, Material.HAIR, result)
    skirt = torch.where(wear.skirt_top, Material.TOP, Material.BOTTOM)
    result = torch.where(point.sheet.round() == 1, skirt, result)
    return torch.where(point.sheet.round() == 2, Material.HAIR, result)
