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
from scipy import ndimage

from deployments.stage2.mesh.corners import CornerField, pack, rows_of

PINHOLE_RADIUS = 2  # voxels: openings up to twice as wide do not count as a way in
MAX_CONTACT = 0.1  # share of a pocket's voxels that may touch the outside: slits touch far more
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
    coords = field.coords().cpu().numpy()
    sdf = field.sdf.float().cpu().numpy()
    inside = coords[sdf < 0]
    if len(inside) == 0:
        return field, 0
    margin = PINHOLE_RADIUS + 2
    low = inside.min(axis=0) - margin
    occupied = np.zeros(inside.max(axis=0) + margin + 1 - low, bool)
    occupied[tuple((inside - low).T)] = True

    filled = torch.from_numpy(np.argwhere(enclosed_pockets(occupied)) + low)
    if len(filled) == 0:
        return field, 0
    # Both lists ascend, as argwhere runs x slowest.
    filled_keys = pack(filled, field.resolution).to(field.keys.device)
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


def enclosed_pockets(occupied: np.ndarray) -> np.ndarray:
    """Free voxels (X, Y, Z) bool that the outside does not reach through more than pinholes.

    The grid needs a free margin wider than `PINHOLE_RADIUS`.
    """
    free = ~occupied
    blocked = ndimage.binary_dilation(occupied, iterations=PINHOLE_RADIUS)
    spaces, _ = ndimage.label(~blocked)
    exterior = spaces == spaces[0, 0, 0]
    exterior = ndimage.binary_dilation(exterior, iterations=PINHOLE_RADIUS, mask=free)
    pockets, count = ndimage.label(free & ~exterior)
    if count == 0:
        return np.zeros_like(occupied)
    touching = ndimage.binary_dilation(exterior)
    size = np.bincount(pockets.ravel(), minlength=count + 1)
    contact = np.bincount(pockets[touching], minlength=count + 1)
    fill = contact <= MAX_CONTACT * size
    fill[0] = False
    return fill[pockets]
