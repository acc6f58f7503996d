"""What the borders of a picture do to its colours and to the trust in them, on any device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from deployments.stage2.mesh.surface import Float64
from deployments.stage2.texture.views import OFFICIAL_SIZE, View

DEPTH_STEP = 0.02  # a jump in depth above this hides what lies behind
RAMP = 4.0  # pixels at the official size over which a view fades in from its border
# Pixels along a silhouette hold some background, those up to diagonal neighbours of it; colours are
# carried outward over them and as far again.
_RIM = 2
_CARRIED = sorted(
    ((y, x) for y in range(-_RIM, _RIM + 1) for x in range(-_RIM, _RIM + 1) if (y, x) != (0, 0)),
    key=lambda offset: offset[0] ** 2 + offset[1] ** 2,
)


def without_rim(picture: Tensor, foreground: Tensor) -> Tensor:
    """The picture with the colours inside its silhouette carried outward over the rim, (H, W, 3).

    Pixels on the silhouette are mixed with the background; read as they are, they leave pale specks
    wherever a surface is only seen edge on. Parts thinner than twice the rim stay as they are.
    """
    inside = ~_dilated(~foreground, 1)
    row, column = (_dilated(inside, _RIM) & ~inside).nonzero().unbind(1)
    offset = torch.tensor(_CARRIED, device=picture.device)
    y, x = row[:, None] + offset[:, 0], column[:, None] + offset[:, 1]  # (P, 24) nearest first
    fits = F.pad(inside, (_RIM,) * 4)[y + _RIM, x + _RIM]
    nearest = fits.byte().argmax(dim=1, keepdim=True)
    result = picture.clone()
    result[row, column] = picture[y.gather(1, nearest)[:, 0], x.gather(1, nearest)[:, 0]]
    return result


def confidence(view: View, depth: Tensor, foreground: Tensor, shift: Float64) -> Tensor:
    """How far each pixel of the mesh's view lies from any border, 0 at it to 1 inside, (H, W).

    Borders are the picture's silhouette (moved back by the shift), jumps of the mesh's own depth
    (infinite where the mesh is not), and, for the face picture, the frame.
    """
    size = foreground.shape[0]
    ramp = max(1.0, RAMP * size / OFFICIAL_SIZE) * view.zoom
    column, row = (round(float(value)) for value in shift)
    known = torch.zeros_like(foreground)
    known[_overlap(size, -row), _overlap(size, -column)] = foreground[
        _overlap(size, row), _overlap(size, column)
    ]
    depth = depth.clamp(max=1e3)
    for axis in (0, 1):
        jump = depth.diff(dim=axis).abs() > DEPTH_STEP
        known.narrow(axis, 1, size - 1).logical_and_(~jump)
        known.narrow(axis, 0, size - 1).logical_and_(~jump)
    distance = distance_inside(known, math.ceil(ramp + 0.5))
    if view.zoom > 1.0:
        step = torch.arange(size, device=distance.device)
        inset = torch.minimum(step, step.flip(0)) / 8.0  # a wide fade into the front view
        distance = torch.minimum(distance, inset)
        distance = torch.minimum(distance, step.flip(0)[:, None] / 8.0)
    return ((distance - 0.5) / ramp).clamp(0.0, 1.0)


def distance_inside(mask: Tensor, reach: int) -> Tensor:
    """Distance of each pixel to the nearest one outside ``mask``, exact below ``reach``, (H, W).

    Longer distances come back as `reach` or more. Pixels beyond the frame do not count.
    """
    rows = torch.zeros(mask.shape, device=mask.device)
    eroded = mask.clone()
    for _ in range(reach):
        rows += eroded
        smaller = eroded.clone()
        smaller[1:] &= eroded[:-1]
        smaller[:-1] &= eroded[1:]
        eroded = smaller
    rows.square_()
    squared = rows.clone()
    for step in range(1, min(reach, mask.shape[1] - 1) + 1):
        moved = rows + step**2
        torch.minimum(squared[:, step:], moved[:, :-step], out=squared[:, step:])
        torch.minimum(squared[:, :-step], moved[:, step:], out=squared[:, :-step])
    return squared.sqrt_()


def _dilated(mask: Tensor, radius: int) -> Tensor:
    """The mask grown by a square, (H, W)."""
    grown = F.max_pool2d(mask[None, None].float(), 2 * radius + 1, stride=1, padding=radius)
    return grown[0, 0] > 0


def _overlap(size: int, offset: int) -> slice:
    return slice(max(0, offset), size + min(0, offset))
