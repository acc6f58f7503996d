"""Sparse tensors at half and double resolution (model.md 11)."""

from __future__ import annotations

from deployments.layers.sparse.tensor import SparseTensor


def downsample(x: SparseTensor) -> SparseTensor:
    """Pool blocks of 2^3 voxels: sum of the children divided by their number **plus one**.

    The official reduction counts the zero it starts from; checkpoints depend on it.
    """
    coarse = x.sites.coarse
    present = (coarse.children >= 0)[..., None]  # (M, 8, 1)
    # Gathered rather than scattered, so that the sum has the same order on every run.
    children = coarse.children.clamp(min=0)
    gathered = x.feats.index_select(0, children.flatten()).view(*children.shape, -1)
    total = (gathered.float() * present).sum(1)
    mean = total / (present.sum(1) + 1)
    return SparseTensor(coarse.sites, mean.to(x.feats.dtype))


def upsample(x: SparseTensor, like: SparseTensor) -> SparseTensor:
    """Undo ``downsample(like)``: every voxel of ``like`` copies the row of its parent in ``x``."""
    return like.with_feats(x.feats.index_select(0, like.sites.coarse.parent))


def subdivide(x: SparseTensor) -> SparseTensor:
    """Split every voxel in eight; the feature row is copied."""
    feats = x.feats[:, None].expand(-1, 8, -1).flatten(0, 1)  # (8 N, C)
    return SparseTensor(x.sites.subdivided, feats)
