"""A sparse tensor: sites and one feature row for each."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deployments.layers.sparse.sites import Sites


@dataclass(frozen=True)
class SparseTensor:
    """Feature rows (N, C) on sites; operators return new tensors and share the sites."""

    sites: Sites
    feats: Tensor  # (N, C)

    def __post_init__(self) -> None:
        if self.feats.shape[0] != len(self.sites):
            raise ValueError(f"{self.feats.shape[0]} feature rows for {len(self.sites)} sites")

    @property
    def coords(self) -> Tensor:
        """(N, 4) int32: batch item, x, y, z."""
        return self.sites.coords

    def with_feats(self, feats: Tensor) -> SparseTensor:
        """Other features on the same sites."""
        return SparseTensor(self.sites, feats)
