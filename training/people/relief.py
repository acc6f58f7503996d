"""Clothes as relief: vertices pushed out along the rest normals, with folds, borders smoothed."""

from __future__ import annotations

import torch

from training.people.body import Body
from training.people.materials import Surface, materials
from training.people.topology import Neighbours
from training.people.wardrobe import Wardrobe


def relief(
    body: Body, attributes: torch.Tensor, neighbours: Neighbours, wear: Wardrobe
) -> torch.Tensor:
    """(B, V) outward offsets, of the height."""
    everyone = wear.at(torch.arange(len(wear.fold), device=wear.fold.device)[:, None])
    point = Surface.unpack(attributes[None])  # (1, V)
    material = materials(point, everyone)  # (B, V)
    thickness = wear.thickness.gather(1, material)
    rate, phase = wear.fold[:, None], wear.phase[:, :1]
    folds = torch.sin(point.z * rate + phase + 3 * torch.sin(point.x * rate))
    above_hem = (point.z < 0.6) & (point.z > everyone.skirt_hem) & everyone.skirt
    # Only what a skirt hides is drawn in; trouser legs that show below its hem keep their cut.
    thickness = torch.where(thickness < 0, torch.where(above_hem, thickness, 0.003), thickness)
    return neighbours.smooth(thickness * (1 + 0.4 * folds), rounds=2)
