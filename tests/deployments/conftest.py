"""A painted figure whose shape, colours and five pictures are all known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from deployments.contracts import MultiviewResult
from deployments.stage2.mesh.dual_tables import CORNERS
from deployments.stage2.mesh.extraction import extract_mesh
from deployments.stage2.mesh.surface import Mesh
from deployments.stage2.texture.rasterizer import interpolate
from deployments.stage2.texture.views import VIEWS

SIZE, GRID = 192, 32


@dataclass(frozen=True)
class Figure:
    """A trunk, a head and one arm on the subject's left (+x): mirroring it changes it."""

    mesh: Mesh
    multiview: MultiviewResult

    @staticmethod
    def paint(points: np.ndarray) -> np.ndarray:
        """Colour 0..255 at points (N, 3): red grows to the left, green backward, blue upward."""
        return 127.5 + 200.0 * np.clip(points, -0.5, 0.5)


def _distance(p: np.ndarray) -> np.ndarray:
    def capsule(a: tuple[float, ...], b: tuple[float, ...], radius: float) -> np.ndarray:
        start, axis = np.array(a), np.subtract(b, a)
        along = ((p - start) @ axis / (axis @ axis)).clip(0, 1)
        return np.linalg.norm(p - start - along[..., None] * axis, axis=-1) - radius

    trunk = capsule((0.0, 0.0, -0.35), (0.0, 0.0, 0.15), 0.12)
    head = capsule((0.0, 0.0, 0.36), (0.0, 0.0, 0.38), 0.09)
    neck = capsule((0.0, 0.0, 0.15), (0.0, 0.0, 0.36), 0.05)
    arm = capsule((0.0, -0.02, 0.15), (0.35, -0.05, 0.05), 0.05)
    return np.minimum.reduce([trunk, head, neck, arm])


@pytest.fixture(scope="session")
def figure() -> Figure:
    """Extracted at 64, pictured at 192, voxels (a shell) in a grid of 32."""
    resolution = 64
    grid = np.stack(np.meshgrid(*[np.arange(resolution)] * 3, indexing="ij"), -1).reshape(-1, 3)
    coords = grid[np.abs(_distance((grid + 0.5) / resolution - 0.5)) * resolution < 3.0]
    features = np.zeros((len(coords), 101), np.float32)
    features[:, 0:8] = _distance((coords[:, None] + CORNERS) / resolution - 0.5) + 1 / resolution
    mesh = extract_mesh(
        torch.from_numpy(coords), torch.from_numpy(features), resolution, colours=False
    )

    color = np.full((5, SIZE, SIZE, 3), 255, np.uint8)
    normal = np.full((5, SIZE, SIZE, 3), 255, np.uint8)
    for k, view in enumerate(VIEWS):
        raster = view.draw(mesh, SIZE)
        values = np.concatenate((mesh.vertices, mesh.vertex_normals()), axis=1)
        found = interpolate(raster, mesh.faces, values.astype(np.float32))
        color[k][raster.covered] = Figure.paint(found[:, :3])
        n = found[:, 3:] / np.linalg.norm(found[:, 3:], axis=1, keepdims=True)
        stored = np.stack((n[:, 0], n[:, 2], -n[:, 1]), axis=1)  # R = nx, G = nz, B = -ny
        normal[k][raster.covered] = (stored + 1) / 2 * 255

    coarse = np.stack(np.meshgrid(*[np.arange(GRID)] * 3, indexing="ij"), -1).reshape(-1, 3)
    touched = np.abs(_distance((coarse + 0.5) / GRID - 0.5)) * GRID < 0.7
    return Figure(
        mesh, MultiviewResult(color, normal, coarse[touched].astype(np.int16), GRID, 43, 2)
    )
