"""Colours for the few texels that no picture sees: under the arms, on the crown, under the chin."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from deployments.stage2.gaussians import Gaussians
from deployments.stage2.mesh.surface import Float32
from deployments.stage2.texture.compiled import workers
from deployments.stage2.texture.projection import Texels

NEIGHBOURS = 16  # Gaussians a point: 8 measure 0.3 dB worse, 32 no better
SEEN_NEIGHBOURS = 8
NORMAL_LENGTH = 0.0125  # of the cube: how far apart two opposite sides of a thin part count
MOST_SEEN = 200_000
CELL = 0.0025  # of the cube, two pixels of the official picture: one lookup serves a cell


def from_gaussians(points: Float32, gaussians: Gaussians) -> Float32:
    """Opacity-weighted mean colour of the nearest Gaussians at points (P, 3), 0..255, (P, 3).

    Weights fall with the Mahalanobis distance; where nothing reaches, the nearest centre decides.
    """
    tree = cKDTree(gaussians.xyz, balanced_tree=False, compact_nodes=False)
    k = min(NEIGHBOURS, len(gaussians))
    _, near = tree.query(points, k=k, workers=workers())
    near = near.reshape(len(points), k)

    # Only the Gaussians that some point asks for need their inverse covariance.
    used, row = np.unique(near, return_inverse=True)
    row = row.reshape(near.shape)
    covariance = Gaussians(
        gaussians.xyz[used],
        gaussians.scale[used],
        gaussians.rotation[used],
        gaussians.opacity[used],
        gaussians.color[used],
    ).covariance()
    precision = np.linalg.inv(covariance.astype(np.float64)).astype(np.float32)
    offset = points[:, None] - gaussians.xyz[near]
    squared = np.einsum("pki,pkij,pkj->pk", offset, precision[row], offset, optimize=True)
    weight = gaussians.opacity[near] * np.exp(-0.5 * squared.clip(0.0, 80.0))
    total = weight.sum(axis=1)
    colour = np.einsum("pk,pkc->pc", weight, gaussians.color[near])
    colour /= np.maximum(total, 1e-12)[:, None]
    alone = total < 1e-6
    colour[alone] = gaussians.color[near[alone, 0]]
    return (255.0 * colour.clip(0.0, 1.0)).astype(np.float32)


def from_seen(unseen: Texels, seen: Texels, colours: Float32) -> Float32:
    """Colours of the nearest seen texels, in position and a little in direction, (P, 3).

    Args:
        unseen: P texels that need a colour.
        seen: texels that have one.
        colours: theirs, (S, 3), 0..255.
    """
    stride = max(1, -(-len(seen.position) // MOST_SEEN))
    tree = cKDTree(_place(seen)[::stride], balanced_tree=False, compact_nodes=False)
    k = min(SEEN_NEIGHBOURS, tree.n)
    place = _place(unseen)
    cell, side = np.floor(place[:, :3] / CELL).astype(np.int64), round(2 / CELL)
    _, first, cell_of = np.unique(
        (cell[:, 0] * side + cell[:, 1]) * side + cell[:, 2], return_index=True, return_inverse=True
    )
    distance, near = tree.query(place[first], k=k, workers=workers())
    weight = 1.0 / (distance.reshape(-1, k) + 1e-3) ** 2
    weight /= weight.sum(axis=1, keepdims=True)
    picked = colours[::stride][near.reshape(-1, k)]
    return np.einsum("pk,pkc->pc", weight, picked).astype(np.float32)[cell_of]


def _place(texels: Texels) -> Float32:
    return np.concatenate((texels.position, NORMAL_LENGTH * texels.normal), axis=1)
