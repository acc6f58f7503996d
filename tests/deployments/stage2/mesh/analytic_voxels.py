"""Small decoder outputs whose surface is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from deployments.stage2.mesh.dual_tables import CORNERS

Voxels = tuple[torch.Tensor, torch.Tensor]
Field = Callable[[np.ndarray], np.ndarray]


def voxels_of(field: Field, resolution: int, shell: float) -> Voxels:
    """Voxels whose centre lies within `shell` voxels of the surface, with exact corner distances.

    `field` maps positions (..., 3) in the unit cube to signed distances, negative inside.
    """
    grid = np.stack(np.meshgrid(*[np.arange(resolution)] * 3, indexing="ij"), -1).reshape(-1, 3)
    near = np.abs(field((grid + 0.5) / resolution - 0.5)) * resolution < shell
    coords = grid[near]
    features = np.zeros((len(coords), 101), np.float32)
    corners = (coords[:, None] + CORNERS) / resolution - 0.5
    features[:, 0:8] = field(corners) + 1.0 / resolution  # undo the decoder's bias
    return torch.from_numpy(coords), torch.from_numpy(features)


def sphere(radius: float) -> Field:
    return lambda p: np.linalg.norm(p, axis=-1) - radius


def ball() -> Voxels:
    """A ball of radius 0.3 at resolution 32, in a shell thick enough to have no inner wall."""
    return voxels_of(sphere(0.3), 32, 12.0)


def hollow_ball() -> Voxels:
    """The same ball, known only near its surface: extraction closes the shell inward."""
    return voxels_of(sphere(0.3), 32, 2.0)
