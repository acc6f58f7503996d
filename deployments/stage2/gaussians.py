"""Activated 3-D Gaussians as plain numpy: the colour of unseen texels, the content of splats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Gaussians:
    """M Gaussians after their activations (model.md 14), in the world frame of model.md 3.

    The subject stands in [-0.5, 0.5]^3, z up, and faces -y.
    """

    xyz: Float32  # (M, 3) centres
    scale: Float32  # (M, 3) standard deviations along the Gaussian's own axes, > 0
    rotation: Float32  # (M, 4) unit quaternions (w, x, y, z), own axes to world
    opacity: Float32  # (M,) 0..1
    color: Float32  # (M, 3) RGB, 0 is black and 1 is white; not clamped above

    def __len__(self) -> int:
        return int(self.xyz.shape[0])

    def packed(self) -> Float32:
        """All columns beside each other, (M, 14); :meth:`unpacked` is the opposite."""
        columns = (self.xyz, self.scale, self.rotation, self.opacity[:, None], self.color)
        return np.concatenate(columns, axis=1, dtype=np.float32)

    @classmethod
    def unpacked(cls, matrix: Float32) -> Gaussians:
        xyz, scale, rotation, opacity, color = np.split(matrix, (3, 6, 10, 11), axis=1)
        return cls(xyz, scale, rotation, opacity[:, 0], color)

    def covariance(self) -> Float32:
        """R S S^T R^T of every Gaussian, (M, 3, 3)."""
        w, x, y, z = self.rotation.T
        axes = np.stack(
            (
                np.stack((1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)), -1),
                np.stack((2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)), -1),
                np.stack((2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)), -1),
            ),
            -2,
        )
        scaled = axes * self.scale[:, None, :]  # columns of R times S
        covariance: Float32 = scaled @ scaled.swapaxes(-1, -2)
        return covariance
