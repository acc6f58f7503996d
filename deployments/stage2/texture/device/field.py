"""The colour field of texture/colour_field.py where no search tree exists: on a GPU.

Gaussians are sorted by the cell of a grid, so those around a point are nine runs of the sorted
list. All of them add to its colour; the sixteen nearest, which the tree finds, are among them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deployments.stage2.texture.device.portions import portions

PITCHES = (1 / 128, 1 / 64, 1 / 32)  # of the cube: the first one at which a point has enough
ENOUGH = 16
PAIRS = 1 << 22  # of point and Gaussian handled at once: bounds the memory to 0.6 GB
_COLUMNS = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)]


@dataclass(frozen=True)
class Cloud:
    """M Gaussians as the field needs them."""

    xyz: Tensor  # (M, 3)
    whitening: Tensor  # (M, 3, 3) turns an offset into standard deviations
    opacity: Tensor  # (M,)
    color: Tensor  # (M, 3)

    def sorted(self, order: Tensor) -> Cloud:
        """The same Gaussians in another order, or some of them."""
        return Cloud(self.xyz[order], self.whitening[order], self.opacity[order], self.color[order])

    def weights(self, offset: Tensor, near: Tensor) -> Tensor:
        """Opacity times exp(-d^2 / 2) for offsets (..., 3) from Gaussians ``near`` (...)."""
        whitened = (self.whitening[near] @ offset[..., None])[..., 0]
        return self.opacity[near] * torch.exp(-0.5 * whitened.square().sum(-1).clamp(max=80.0))


def sums_around(points: Tensor, cloud: Cloud) -> tuple[Tensor, Tensor]:
    """Sums over the Gaussians around points (P, 3) of weight times colour (P, 3) and weight (P,).

    Both are zero for a point that has too few Gaussians around it, even at the coarsest pitch.
    """
    total = points.new_zeros(len(points), 4)
    waiting = torch.arange(len(points), device=points.device)
    for pitch in PITCHES:
        keys, order = _keys(cloud.xyz, pitch, (0, 0, 0)).sort()
        ordered = cloud.sorted(order)
        first, last = (
            torch.stack([edge(points[waiting], pitch, keys, c) for c in _COLUMNS], dim=1)
            for edge in (_first, _last)
        )  # (W, 9)
        count = (last - first).sum(1)
        enough = (count >= ENOUGH).nonzero()[:, 0]
        for a, b in portions(count[enough], PAIRS):
            rows = enough[a:b]
            chosen = waiting[rows]
            total[chosen] = _summed(points[chosen], first[rows], last[rows], ordered)
        waiting = waiting[count < ENOUGH]
        if len(waiting) == 0:
            break
    return total[:, 1:], total[:, 0]


def _summed(points: Tensor, first: Tensor, last: Tensor, cloud: Cloud) -> Tensor:
    """Weight and weighted colour, summed over nine runs for each point, (P, 4)."""
    length = (last - first).flatten()
    start = length.cumsum(0) - length
    near = (first.flatten() - start).repeat_interleave(length)
    near += torch.arange(len(near), device=near.device)
    count = length.view(first.shape).sum(1)
    offset = points.repeat_interleave(count, dim=0) - cloud.xyz[near]
    weight = cloud.weights(offset, near)[:, None]
    values = torch.cat((weight, weight * cloud.color[near]), dim=1)
    return torch.segment_reduce(values, "sum", lengths=count, axis=0, unsafe=True)


def _first(points: Tensor, pitch: float, keys: Tensor, column: tuple[int, int]) -> Tensor:
    return torch.searchsorted(keys, _keys(points, pitch, (*column, -1)))


def _last(points: Tensor, pitch: float, keys: Tensor, column: tuple[int, int]) -> Tensor:
    return torch.searchsorted(keys, _keys(points, pitch, (*column, 1)), right=True)


def _keys(points: Tensor, pitch: float, step: tuple[int, int, int]) -> Tensor:
    """One number for the cell ``step`` cells away; neighbours along z have neighbouring numbers."""
    side = round(4 / pitch)  # cells from -2 to 2, far around the cube
    cell = ((points + 2.0) / pitch).floor().long().clamp(1, side - 2)
    x, y, z = (cell + torch.tensor(step, device=cell.device)).unbind(-1)
    return (x * side + y) * side + z
