"""Close inner walls before extracting: a flood fill instead of a thousand visibility renders.

Corners of no active voxel count as outside, so where the decoder's shell ends on inside corners a
second wall appears behind the skin; the decoder may also predict cavities with pinholes. Here free
space that the outside hardly touches is filled (geometry.md 5: same result for every shell
thickness, volume within 0.3 % of the truth, 0.2 s at 256).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from deployments.stage2.mesh.corners import CornerField, pack, rows_of
from deployments.stage2.mesh.pockets import PINHOLE_RADIUS, enclosed_pockets

FILLED_SDF = 0.05  # how far inside a filled active corner lies at least
BORDER_SDF = 1e-4  # how far outside a corner on the border of the grid lies at least


def seal_border(field: CornerField) -> CornerField:
    """Move corners on the border of the grid outside, so that a subject that touches it is closed.

    Beyond the border there are no cubes to continue in: feet at the very bottom would be open.
    """
    coords = field.coords()
    border = ((coords == 0) | (coords == field.resolution)).any(dim=1)
    return replace(field, sdf=torch.where(border, field.sdf.clamp(min=BORDER_SDF), field.sdf))


def solidify(field: CornerField) -> tuple[CornerField, int]:
    """Fill enclosed pockets; returns the new field and how many corners became inside."""
    inside = field.coords()[field.sdf < 0]
    if len(inside) == 0:
        return field, 0
    # Only the box around the subject, one byte a corner, goes through the CPU.
    margin = PINHOLE_RADIUS + 2
    low = inside.amin(dim=0) - margin
    size = (inside.amax(dim=0) - low + margin + 1).tolist()
    occupied = torch.zeros(size, dtype=torch.bool, device=inside.device)
    occupied[tuple((inside - low).unbind(1))] = True
    pockets = torch.from_numpy(np.argwhere(enclosed_pockets(occupied.cpu().numpy())))
    filled = pockets.to(inside.device) + low
    if len(filled) == 0:
        return field, 0
    # Both lists ascend, as argwhere runs x slowest.
    filled_keys = pack(filled, field.resolution)
    row = rows_of(field.keys, filled_keys)
    missing = filled_keys[row == len(field.keys)]
    known = torch.zeros(len(field.keys) + 1, dtype=torch.bool, device=row.device)
    known[row] = True
    known = known[:-1]
    sdf_known = torch.where(known, -field.sdf.abs().clamp(min=FILLED_SDF), field.sdf)
    keys, order = torch.cat((field.keys, missing)).sort()

    def extended(values: torch.Tensor, default: float) -> torch.Tensor:
        extra = values.new_full((len(missing), *values.shape[1:]), default)
        return torch.cat((values, extra))[order]

    return (
        CornerField(
            field.resolution,
            keys,
            extended(sdf_known, -1.0),
            extended(field.deform, 0.0),
            None if field.colour is None else extended(field.colour, 0.0),
        ),
        len(filled),
    )
