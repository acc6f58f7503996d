"""Light on painted surfaces: one steady studio light for the targets, any other for photographs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from training.people.randomness import Dice


@dataclass(frozen=True)
class Light:
    """A soft directional light over an ambient floor; B subjects."""

    direction: torch.Tensor  # (B, 3) unit, towards the light
    ambient: torch.Tensor  # (B,) 0..1, share that reaches every side
    colour: torch.Tensor  # (B, 3) gain

    def shade(self, normal: torch.Tensor, subject: torch.Tensor) -> torch.Tensor:
        """(P, 3) factors for unit normals (P, 3) of subjects (P,)."""
        wrapped = (normal * self.direction[subject]).sum(-1) * 0.5 + 0.5
        ambient = self.ambient[subject]
        strength = ambient + (1 - ambient) * wrapped
        return strength[:, None] * self.colour[subject]


def studio_light(count: int, device: torch.device) -> Light:
    """The light of all target pictures: from above and in front, mostly ambient."""
    direction = torch.tensor([0.0, -0.5, 0.866], device=device).expand(count, 3)
    return Light(
        direction,
        torch.full((count,), 0.68, device=device),
        torch.ones(count, 3, device=device),
    )


def photograph_light(dice: Dice) -> Light:
    """Light of an input picture: from any side in front, of varied contrast and tint."""
    sideways, forwards, upwards = dice.normal(0.5), dice.uniform(-1.2, -0.3), dice.uniform(0.2, 1.2)
    direction = F.normalize(torch.stack([sideways, forwards, upwards], 1), dim=-1)
    exposure = dice.uniform(0.9, 1.12, 1)
    tint = dice.uniform(0.96, 1.04, 3)
    return Light(direction, dice.uniform(0.5, 0.75), exposure * tint)
