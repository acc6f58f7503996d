"""The gather of texture/projection.py as tensor operations, for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from deployments.stage2.texture.projection import FACING, SHARPNESS, Sight


def gather(
    position: Tensor, normal: Tensor, sight: Sight, colour_sum: Tensor, weight_sum: Tensor
) -> None:
    """Add what one picture shows to the texels it sees.

    Args:
        position, normal: (P, 3) float32.
        sight: the picture and where it is looked up.
        colour_sum, weight_sum: (P, 3) and (P,), changed in place.
    """
    toward_x, toward_y = sight.view.toward_camera[:2]
    height, width = sight.depth.shape
    scale, left = sight.scale, 0.5 / sight.view.zoom
    cosine = normal[:, 0] * toward_x + normal[:, 1] * toward_y
    x = (position[:, sight.view.column_axis] + left) * scale - 0.5
    y = (0.5 - position[:, 2]) * scale - 0.5
    within = (cosine >= FACING) & (x >= 1) & (y >= 1) & (x < width - 2) & (y < height - 2)
    texel = within.nonzero()[:, 0]
    cosine, x, y, place = cosine[texel], x[texel], y[texel], position[texel]

    pixel = x.floor().long() + y.floor().long() * width
    around = [sight.depth.view(-1)[pixel + offset] for offset in (0, 1, width, width + 1)]
    # Visible if not behind the farthest of the four surrounding pixels of the mesh.
    farthest = torch.stack(around).amax(0)
    own = -(place[:, 0] * toward_x + place[:, 1] * toward_y)
    visible = own <= farthest + sight.tolerance / cosine.clamp(min=0.2)
    certain = _bilinear(sight.trust, x, y) * visible
    x, y = x + sight.shift[0], y + sight.shift[1]
    certain *= (x >= 0) & (y >= 0) & (x < width - 1) & (y < height - 1)

    kept = (certain > 0).nonzero()[:, 0]
    texel, x, y = texel[kept], x[kept], y[kept]
    weight = cosine[kept] ** SHARPNESS * certain[kept] * sight.weight
    # No texel appears twice, so plain sums are safe.
    colour_sum[texel] += weight[:, None] * _bilinear(sight.picture, x, y)
    weight_sum[texel] += weight


def _bilinear(picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Values of (H, W) or (H, W, C) at N places -> (N,) or (N, C) float32."""
    height, width = picture.shape[:2]
    column, row = x.floor(), y.floor()
    u, v = x - column, y - row
    pixel = column.long().clamp(0, width - 2) + row.long().clamp(0, height - 2) * width
    flat = picture.reshape(height * width, *picture.shape[2:])
    total = torch.zeros((), device=picture.device)
    for offset, share in (
        (0, (1 - u) * (1 - v)),
        (1, u * (1 - v)),
        (width, (1 - u) * v),
        (width + 1, u * v),
    ):
        value = flat[pixel + offset].float()
        total = total + value * (share if value.ndim == 1 else share[:, None])
    return total
