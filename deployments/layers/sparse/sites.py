"""Where a sparse tensor has rows, and what its operators derive from that, once per shape."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from deployments.layers.sparse.neighbours import (
    neighbour_table,
    pack_keys,
    subdivided_neighbour_table,
)
from deployments.layers.sparse.windows import Windows, window_partition


@dataclass(frozen=True)
class Coarsening:
    """The sites of half the resolution, and how the fine ones map to them."""

    sites: Sites
    parent: Tensor  # (N,) int64, coarse row of every fine row
    children: Tensor  # (M, 8) int64, fine rows below every coarse row, -1 where there is none


class Sites:
    """Occupied voxels ``coords`` (N, 4) int32: batch item, x, y, z; rows of an item contiguous.

    Tensors on the same sites share one object (and with it tables, windows and coarser sites).
    Coordinates are 0..65533; no voxel appears twice.
    """

    def __init__(self, coords: Tensor, *, batch: int | None = None) -> None:
        self.coords = coords
        self._batch = batch
        self._parent: Sites | None = None
        self._windows: dict[tuple[int, int], Windows] = {}

    @property
    def device(self) -> torch.device:
        return self.coords.device

    def __len__(self) -> int:
        return int(self.coords.shape[0])

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Rows of every batch item."""
        counts = torch.bincount(self.coords[:, 0], minlength=self._batch or 0)
        return tuple(counts.tolist())

    @cached_property
    def keys(self) -> Tensor:
        """One int64 a row that orders sites by batch item, x, y, z (N,)."""
        return pack_keys(self.coords)

    @cached_property
    def neighbours(self) -> Tensor:
        """Row of each of the 27 neighbours of every site, -1 where it is empty; (27, N) int32."""
        if self._parent is not None:
            return subdivided_neighbour_table(self._parent.neighbours)
        return neighbour_table(self.keys)

    def windows(self, size: int, shift: int) -> Windows:
        """Cubes of ``size`` voxels a side, moved by ``shift`` along every axis (model.md 11)."""
        if (size, shift) not in self._windows:
            self._windows[size, shift] = window_partition(self.coords, size, shift)
        return self._windows[size, shift]

    @cached_property
    def coarse(self) -> Coarsening:
        """Sites floor(x / 2), sorted by batch item, x, y, z."""
        halved = self.coords.clone()
        halved[:, 1:] //= 2
        unique, parent = torch.unique(pack_keys(halved), return_inverse=True)
        coords = halved.new_empty(unique.shape[0], 4)
        coords[parent] = halved  # siblings agree on their parent, so any of them may write it
        corner = self.coords[:, 1:].long() & 1
        children = torch.full((unique.shape[0], 8), -1, device=self.device)
        children[parent, 4 * corner[:, 0] + 2 * corner[:, 1] + corner[:, 2]] = torch.arange(
            len(self), device=self.device
        )
        return Coarsening(Sites(coords, batch=len(self.lengths)), parent, children)

    @cached_property
    def subdivided(self) -> Sites:
        """Eight children 2c + (0,0,0), (0,0,1), (0,1,0), ... of every site, in this order."""
        corner = torch.arange(8, device=self.device)
        offsets = torch.stack([0 * corner, corner >> 2, corner >> 1 & 1, corner & 1], dim=-1)
        scale = torch.tensor([1, 2, 2, 2], device=self.device)
        coords = (self.coords * scale)[:, None] + offsets  # (N, 8, 4)
        children = Sites(coords.flatten(0, 1).to(self.coords.dtype), batch=self._batch)
        children._parent = self
        return children

    def repeated(self, times: int) -> Sites:
        """The same voxels ``times`` over, each copy as batch items of their own."""
        items = len(self.lengths)
        copies = [self.coords.clone() for _ in range(times)]
        for index, copy in enumerate(copies):
            copy[:, 0] += index * items
        return Sites(torch.cat(copies), batch=items * times)
