"""What a person wears: cut, colours and patterns, drawn once for a batch.

Lengths are in template space (the mean body with height 1): z is the height over the floor,
``reach`` is |x| along the A-pose arm (shoulder 0.10, elbow 0.20, wrist 0.275, finger tips 0.32).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum

import torch

from training.people.randomness import Dice


class Material(IntEnum):
    SKIN = 0
    TOP = 1
    BOTTOM = 2
    SHOES = 3
    HAIR = 4


class Pattern(IntEnum):
    PLAIN = 0
    STRIPES = 1
    PINSTRIPES = 2
    CHECKS = 3
    DOTS = 4
    GRADIENT = 5
    CAMOUFLAGE = 6
    PRINT = 7


PATTERN_SHARES = (0.5, 0.09, 0.06, 0.08, 0.06, 0.06, 0.06, 0.09)
SKIN_TONES = ((0.96, 0.82, 0.73), (0.87, 0.68, 0.55), (0.70, 0.50, 0.37), (0.40, 0.26, 0.19))
HAIR_COLOURS = (
    (0.07, 0.06, 0.06),
    (0.22, 0.14, 0.09),
    (0.42, 0.27, 0.16),
    (0.78, 0.62, 0.38),
    (0.55, 0.22, 0.10),
    (0.66, 0.65, 0.64),
)


@dataclass(frozen=True)
class Wardrobe:
    """Numbers of B subjects; every tensor starts with the axis B."""

    skin: torch.Tensor  # (B, 3) rgb 0..1
    hair: torch.Tensor  # (B, 3)
    cloth: torch.Tensor  # (B, 3, 2, 3) top, bottom, shoes; first and second colour
    pattern: torch.Tensor  # (B, 3) Pattern of top, bottom, shoes
    frequency: torch.Tensor  # (B, 3) pattern repeats over the body height
    phase: torch.Tensor  # (B, 4) radians
    sleeve: torch.Tensor  # (B,) reach where the top ends
    hem: torch.Tensor  # (B,) z where the top ends
    collar: torch.Tensor  # (B,) z where the top begins
    neckline: torch.Tensor  # (B,) 0 round .. 1.2 deep V
    trousers: torch.Tensor  # (B,) z where the bottom ends
    shoes: torch.Tensor  # (B,) z where the shoes end
    hairline: torch.Tensor  # (B,) z of the hair above the brow
    nape: torch.Tensor  # (B,) z of the hair at the back of the head
    beard: torch.Tensor  # (B,) bool
    thickness: torch.Tensor  # (B, 5) of the height, by Material
    fold: torch.Tensor  # (B,) folds over the body height
    skirt: torch.Tensor  # (B,) bool: the bottom is a skirt, dress or coat tail
    skirt_hem: torch.Tensor  # (B,) z
    skirt_flare: torch.Tensor  # (B,) hem radius over hip radius
    skirt_top: torch.Tensor  # (B,) bool: it is painted like the top (dress, coat)
    open_front: torch.Tensor  # (B,) bool: coat
    locks: torch.Tensor  # (B,) bool: hair falls below the ears
    locks_end: torch.Tensor  # (B,) z
    locks_volume: torch.Tensor  # (B,) of the height

    def at(self, subject: torch.Tensor) -> Wardrobe:
        """The rows of the given subjects, one for every pixel or vertex."""
        return Wardrobe(
            **{field.name: getattr(self, field.name)[subject] for field in fields(self)}
        )


def _cloth_colours(dice: Dice) -> torch.Tensor:
    """(B, 3, 2, 3): greys, muted and strong colours, from near black to near white."""
    value = dice.uniform(0.06, 0.97, 3, 2, 1)
    colour = dice.uniform(0.03, 0.97, 3, 2, 3)
    strength = dice.uniform(0, 1, 3, 2, 1) ** 1.3
    return (value * (1 - strength) + colour * strength).clamp(0.03, 0.97)


def _between(dice: Dice, palette: tuple[tuple[float, float, float], ...]) -> torch.Tensor:
    """(B, 3): a point between two neighbours of a palette."""
    colours = torch.tensor(palette, device=dice.device)
    place = dice.uniform(0, len(palette) - 1.001, 1)
    lower = place.floor().long()[:, 0]
    return torch.lerp(colours[lower], colours[lower + 1], place - place.floor())


def sample_wardrobe(dice: Dice) -> Wardrobe:
    """Clothes of ``dice.count`` subjects."""
    skirt = dice.chance(0.24)
    coat = skirt & dice.chance(0.3)
    dress = skirt & dice.chance(0.45)
    short_skirt = dice.chance(0.5)
    covered = coat | dice.chance(0.35)  # legs under a skirt
    sleeve_kind = dice.choice((0.4, 0.45, 0.15))[:, None]
    sleeves = torch.stack(
        [dice.uniform(0.125, 0.175), dice.uniform(0.26, 0.275), dice.uniform(0.07, 0.26)], 1
    )
    hem = torch.where(dice.chance(0.18), dice.uniform(0.34, 0.46), dice.uniform(0.47, 0.57))
    hem = torch.where(skirt & ~coat, dice.uniform(0.56, 0.60), hem)
    trousers = torch.where(dice.chance(0.68), dice.uniform(0.03, 0.06), dice.uniform(0.1, 0.42))
    trousers = torch.where(skirt & ~covered, 0.44, trousers)
    ground = torch.full((dice.count,), 0.0, device=dice.device)
    loose = torch.where(dice.chance(0.3)[:, None], dice.uniform(0.006, 0.02, 2), 0.0)
    thickness = torch.stack(
        [
            ground,
            dice.uniform(0.002, 0.009) + loose[:, 0],
            torch.where(skirt, -0.016, dice.uniform(0.0015, 0.008) + loose[:, 1]),
            dice.uniform(0.007, 0.012),  # thick enough to close the gaps between the toes
            dice.uniform(0.003, 0.018),
        ],
        1,
    )
    return Wardrobe(
        skin=_between(dice, SKIN_TONES),
        hair=_between(dice, HAIR_COLOURS) * dice.uniform(0.8, 1.15, 1),
        cloth=_cloth_colours(dice),
        pattern=dice.choice(PATTERN_SHARES, 3),
        frequency=dice.uniform(7, 24, 3),
        phase=dice.uniform(0, 6.2832, 4),
        sleeve=torch.where(coat, 0.27, sleeves.gather(1, sleeve_kind)[:, 0]),
        hem=hem,
        collar=dice.uniform(0.825, 0.855),
        neckline=torch.where(dice.chance(0.35), dice.uniform(0.2, 1.2), 0.0),
        trousers=trousers,
        shoes=torch.where(dice.chance(0.8), dice.uniform(0.03, 0.05), dice.uniform(0.08, 0.24)),
        hairline=dice.uniform(0.955, 0.972),
        nape=dice.uniform(0.86, 0.91),
        beard=dice.chance(0.12),
        thickness=thickness,
        fold=dice.uniform(12, 40),
        skirt=skirt,
        skirt_hem=torch.where(short_skirt, dice.uniform(0.3, 0.44), dice.uniform(0.07, 0.3)),
        skirt_flare=torch.where(coat, dice.uniform(1.1, 1.4), dice.uniform(1.05, 1.9)),
        skirt_top=coat | dress,
        open_front=coat,
        locks=dice.chance(0.42),
        locks_end=dice.uniform(0.68, 0.88),
        locks_volume=dice.uniform(0.006, 0.03),
    )
