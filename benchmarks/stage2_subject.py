"""A body whose distance to every point is known, for timing Stage 2 where no body model is at hand.

Round cones in the proportions of a person, painted in stripes: voxels, the five pictures and what a
trained mesh decoder would say about the surface belong together, so that the back end works on
geometry like that of a real run and not on the foam that random weights make.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deployments.checkpoints.method import MethodConfig
from deployments.contracts import MultiviewResult, PreparedImage
from deployments.layers.sparse.tensor import SparseTensor
from deployments.stage2.mesh.dual_tables import CORNERS
from deployments.stage2.mesh.extraction import extract_mesh
from deployments.stage2.models.mesh_decoder import MeshDecoder
from deployments.stage2.texture.rasterizer import interpolate
from deployments.stage2.texture.views import VIEWS

# Ends (x, y, z) and radii of the limbs, in the cube of model.md 3; each is on both sides.
LIMBS = (
    ((0, -0.01, 0.40), (0, 0.01, 0.43), 0.055, 0.060),  # head
    ((0, 0.01, 0.31), (0, 0.0, 0.40), 0.032, 0.034),  # neck
    ((0.05, 0, 0.27), (0.03, 0, 0.06), 0.075, 0.075),  # trunk
    ((0.10, 0.01, 0.28), (0.19, 0.02, 0.14), 0.036, 0.030),  # upper arm
    ((0.19, 0.02, 0.14), (0.25, -0.02, 0.00), 0.028, 0.020),  # forearm
    ((0.25, -0.02, 0.00), (0.27, -0.03, -0.05), 0.020, 0.016),  # hand
    ((0.05, 0, 0.04), (0.07, -0.01, -0.21), 0.066, 0.044),  # thigh
    ((0.07, -0.01, -0.21), (0.08, 0.02, -0.43), 0.042, 0.028),  # shank
    ((0.08, 0.01, -0.45), (0.09, -0.07, -0.46), 0.028, 0.022),  # foot
)
STRIPE = 16 / 768  # of the cube


def distance(points: NDArray[np.float64]) -> NDArray[np.float32]:
    """Signed distance of points (N, 3) to the body's surface, negative inside."""
    mirrored = np.stack((np.abs(points[:, 0]), points[:, 1], points[:, 2]), axis=1)
    nearest = np.full(len(points), np.inf)
    for start, end, near, far in LIMBS:
        a, bone = np.array(start), np.subtract(end, start)
        along = ((mirrored - a) @ bone / (bone @ bone)).clip(0, 1)
        radius = near + (far - near) * along
        away = np.linalg.norm(mirrored - a - along[:, None] * bone, axis=1) - radius
        nearest = np.minimum(nearest, away)
    return nearest.astype(np.float32)


def paint(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colour 0..255 at points (N, 3): stripes around the body that change from side to side."""
    stripe = np.floor(points[:, 2] / STRIPE) % 2
    base = 127.5 + 90 * np.sin(np.array([7.0, 9.0, 11.0]) * points)
    return np.asarray(base * (0.6 + 0.4 * stripe[:, None]), np.float32)


def surface_features(coords: NDArray[np.int64], resolution: int) -> NDArray[np.float32]:
    """The 101 channels for voxels (N, 3): exact distances at their corners, the rest neutral."""
    side = resolution + 1
    corners = (coords[:, None] + CORNERS).reshape(-1, 3)
    keys, row = np.unique(
        (corners[:, 0] * side + corners[:, 1]) * side + corners[:, 2], return_inverse=True
    )
    places = np.stack((keys // side**2, keys // side % side, keys % side), axis=1)
    features = np.zeros((len(coords), 101), np.float32)
    sdf = distance(places / resolution - 0.5)
    features[:, 0:8] = sdf[row].reshape(-1, 8) + 1 / resolution
    return features


def subject(method: MethodConfig, voxels: int) -> tuple[PreparedImage, MultiviewResult]:
    """The ``voxels`` cells nearest to the body's surface, and five pictures of it."""
    grid, size = method.voxel_grid, method.picture_size
    cells = np.moveaxis(np.indices((grid,) * 3), 0, -1).reshape(-1, 3)
    shell = np.argsort(np.abs(distance((cells + 0.5) / grid - 0.5)))[:voxels]
    coords = cells[np.sort(shell)]

    fine = (coords[:, None] * 4 + np.argwhere(np.ones((4, 4, 4)))).reshape(-1, 3)
    features = torch.from_numpy(surface_features(fine, 4 * grid))
    mesh = extract_mesh(torch.from_numpy(fine), features, 4 * grid, colours=False)
    values = np.concatenate((mesh.vertices, mesh.vertex_normals()), axis=1).astype(np.float32)
    color, normal = np.full((2, 5, size, size, 3), 255, np.uint8)
    for k, view in enumerate(VIEWS):
        raster = view.draw(mesh, size)
        place, n = np.split(interpolate(raster, mesh.faces, values), 2, axis=1)
        color[k][raster.covered] = paint(place)
        n = n / np.linalg.norm(n, axis=1, keepdims=True).clip(1e-12)
        normal[k][raster.covered] = (np.stack((n[:, 0], n[:, 2], -n[:, 1]), axis=1) + 1) * 127.5

    condition = np.zeros((method.condition_size, method.condition_size, 3), np.uint8)
    rgba = np.concatenate([color[0], np.full_like(color[0, ..., :1], 255)], axis=-1)
    prepared = PreparedImage(rgba, rgba, color[0], color[4], condition, 0.3)
    result = MultiviewResult(color, normal, coords.astype(np.int16), grid, seed=43, steps=50)
    return prepared, result


class KnownSurface(nn.Module):
    """A mesh decoder that takes all its time and then says what a trained one would."""

    def __init__(self, decoder: MeshDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.mesh_resolution = decoder.mesh_resolution
        self._known: Tensor | None = None

    def forward(self, latent: SparseTensor, color: Tensor, normal: Tensor) -> SparseTensor:
        """As ``MeshDecoder.forward``; the channels are computed at the first call."""
        found: SparseTensor = self.decoder(latent, color, normal)
        if self._known is None:
            coords = found.coords[:, 1:].long().cpu().numpy()
            known = torch.from_numpy(surface_features(coords, self.mesh_resolution))
            self._known = known.to(found.feats.device)
        return found.with_feats(self._known)
