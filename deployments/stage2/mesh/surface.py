"""The mesh that leaves the extraction and travels to the GLB."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]


@dataclass(frozen=True)
class Mesh:
    """Triangles in the frame of model.md 3: z up, the subject faces -y, cube [-0.5, 0.5]^3."""

    vertices: Float32  # (V, 3)
    faces: Int32  # (F, 3) counter-clockwise from outside
    attributes: Float32 | None = None  # (V, 6) colour and normal channels, 0..1

    def face_normals(self) -> Float64:
        """Normals as long as twice the triangle's area, (F, 3)."""
        corners = self.vertices.astype(np.float64)[self.faces]
        normals: Float64 = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        return normals

    def vertex_normals(self) -> Float64:
        """Area-weighted unit normals, (V, 3); zero where a vertex has no face."""
        face_normals = self.face_normals()
        normals = np.stack(
            [
                sum(
                    np.bincount(self.faces[:, k], face_normals[:, axis], len(self.vertices))
                    for k in range(3)
                )
                for axis in range(3)
            ],
            axis=1,
        )
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        unit: Float64 = normals / np.maximum(length, 1e-20)
        return unit

    def volume(self) -> float:
        """Signed volume, in units of the cube; positive when faces look outward."""
        a, b, c = self.vertices.astype(np.float64)[self.faces].swapaxes(0, 1)
        return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6.0)

    def compacted(self) -> Mesh:
        """The same surface without vertices that no face uses; vertex order is kept."""
        used = np.zeros(len(self.vertices), bool)
        used[self.faces] = True
        number = np.cumsum(used, dtype=np.int32) - 1
        return Mesh(
            self.vertices[used],
            number[self.faces].reshape(-1, 3),
            None if self.attributes is None else self.attributes[used],
        )
