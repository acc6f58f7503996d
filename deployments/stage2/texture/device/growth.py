"""The seam growth of texture/growth.py as tensor operations, for a GPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def grow(texture: Tensor, known: Tensor, texels: int) -> Tensor:
    """Extend charts outward by `texels`, each step the mean of known neighbours.

    The rest takes the mean colour of the charts. `texture` is (T, T, 3), `known` (T, T).
    """
    mean = texture[known].mean(dim=0)
    mask = known[None].to(texture.dtype)
    colour = texture.permute(2, 0, 1) * mask
    for _ in range(texels):
        sums = _of_neighbours(torch.cat((mask, colour)))
        new = (mask == 0) & (sums[:1] > 0)
        colour = torch.where(new, sums[1:] / sums[:1], colour)
        mask = torch.where(new, 1.0, mask)
    return torch.where(mask > 0, colour, mean[:, None, None]).permute(1, 2, 0)


def _of_neighbours(values: Tensor) -> Tensor:
    """Sums over 3 x 3 texels, (C, T, T)."""
    return F.avg_pool2d(values[None], 3, stride=1, padding=1, divisor_override=1)[0]
