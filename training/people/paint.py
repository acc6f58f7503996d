"""Colour of a surface point: cloth patterns, skin with a face, hair; pixel by pixel."""

from __future__ import annotations

import torch

from training.people.materials import Surface
from training.people.wardrobe import Material, Pattern, Wardrobe

TURN = 6.2832


def _second_colour(
    point: Surface,
    material: torch.Tensor,
    pattern: torch.Tensor,
    rate: torch.Tensor,
    phase: torch.Tensor,
) -> torch.Tensor:
    """Share of a garment's second colour, 0..1."""
    sleeve, reach = point.arm > 0.5, point.x.abs()
    along = torch.where(sleeve, 0.66 * reach - 0.6 * point.z - 0.45 * point.y, point.z)
    across = torch.where(sleeve, 0.7 * (reach + point.z), point.x + 0.3 * point.y)
    stripes = (torch.sin(along * rate * TURN) > 0).float()
    pinstripes = (torch.sin(across * rate * TURN) > 0.55).float()
    columns = (torch.sin(across * rate * TURN) > 0).float()
    dots = (torch.sin(along * rate * TURN) * torch.sin(across * rate * TURN) > 0.5).float()
    blots = torch.sin(
        across * rate * 2 + phase[:, 0] + 2 * torch.sin(along * rate * 1.7 + phase[:, 1])
    )
    blots = blots * torch.sin(
        along * rate * 2.2 + phase[:, 2] + 1.5 * torch.sin(across * rate * 2.3)
    )
    shape = torch.maximum(point.x.abs(), (point.z - 0.73).abs() * (0.8 + 0.5 * phase[:, 3] / TURN))
    mark = (material == Material.TOP) & (point.y < 0) & (shape < 0.036) & (point.arm < 0.5)
    choices = {
        Pattern.STRIPES: stripes,
        Pattern.PINSTRIPES: pinstripes,
        Pattern.CHECKS: 0.5 * stripes + 0.5 * columns,
        Pattern.DOTS: dots,
        Pattern.GRADIENT: ((point.z - 0.05) / 0.8).clamp(0, 1),
        Pattern.CAMOUFLAGE: (blots > 0.1).float(),
        Pattern.PRINT: mark.float(),
    }
    share = torch.zeros_like(point.z)
    for number, value in choices.items():
        share = torch.where(pattern == number, value, share)
    return share


def _garments(point: Surface, material: torch.Tensor, wear: Wardrobe) -> torch.Tensor:
    garment = (material - 1).clamp(0, 2)
    rows = torch.arange(len(material), device=material.device)
    first, second = wear.cloth[rows, garment].unbind(1)
    share = _second_colour(
        point, material, wear.pattern[rows, garment], wear.frequency[rows, garment], wear.phase
    )
    colour = torch.lerp(first, second, share[:, None])
    front = wear.open_front & (point.y < 0) & (point.arm < 0.5) & (material == Material.TOP)
    gap = front & (point.x.abs() < 0.012 + 0.03 * (0.83 - point.z).clamp(0, 0.4))
    colour = torch.where(gap[:, None], wear.cloth[:, 1, 0], colour)
    belt = (material == Material.BOTTOM) & ((point.z - 0.588).abs() < 0.008) & ~wear.skirt
    colour = torch.where(belt[:, None], 0.25 * wear.cloth[:, 2, 0] + 0.05, colour)
    sole = (material == Material.SHOES) & (point.z < 0.011)
    return torch.where(
        sole[:, None], 0.12 + 0.8 * wear.cloth[:, 2, 1, :1].round().expand_as(colour), colour
    )


def _skin(point: Surface, wear: Wardrobe) -> torch.Tensor:
    reach, z = point.x.abs(), point.z
    face = (point.head > 0.5) & (point.y < -0.045)

    def ellipse(x: float, height: float, half_width: float, half_height: float) -> torch.Tensor:
        inside = ((reach - x) / half_width) ** 2 + ((z - height) / half_height) ** 2
        return (face & (inside < 1))[:, None]

    colour = wear.skin
    blush = (-(((reach - 0.026) / 0.016) ** 2) - ((z - 0.915) / 0.014) ** 2).exp() * face
    warm = torch.tensor([0.03, -0.02, -0.02], device=colour.device)
    colour = colour + blush[:, None] * warm
    lips = colour * torch.tensor([0.88, 0.58, 0.58], device=colour.device)
    smile = z - 0.893 - 9 * reach**2
    mouth = face & ((reach / 0.0145) ** 2 + (smile / 0.0046) ** 2 < 1)
    colour = torch.where(mouth[:, None], lips, colour)
    colour = torch.where(ellipse(0.0185, 0.9385, 0.0100, 0.0058), wear.skin * 0.45, colour)
    colour = torch.where(
        ellipse(0.0185, 0.9375, 0.0088, 0.0042), 0.92 * torch.ones_like(colour), colour
    )
    iris = torch.where(
        wear.phase[:, 3:] < 2, wear.hair * 0.5 + 0.05, 0.12 * torch.ones_like(colour)
    )
    colour = torch.where(ellipse(0.0185, 0.9375, 0.0044, 0.0044), iris, colour)
    brow = wear.hair * 0.7
    slanted = ((reach - 0.02) / 0.0125) ** 2 + ((z - 0.951 - 0.06 * (reach - 0.02)) / 0.0028) ** 2
    return torch.where((face & (slanted < 1))[:, None], brow, colour)


def paint(point: Surface, material: torch.Tensor, wear: Wardrobe) -> torch.Tensor:
    """(P, 3) rgb in 0..1 of P points; ``wear`` holds each point's own row."""
    strands = torch.sin(point.x * 260 + 2 * torch.sin(point.z * 24) + point.y * 120)
    hair = wear.hair * (1 + 0.09 * strands[:, None])
    cloth = (material >= Material.TOP) & (material <= Material.SHOES)
    colour = torch.where(cloth[:, None], _garments(point, material, wear), _skin(point, wear))
    return torch.where((material == Material.HAIR)[:, None], hair, colour).clamp(0, 1)
