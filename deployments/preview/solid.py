"""A closed, smooth surface from Stage 1's voxels and silhouettes, without Stage 2."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from deployments.contracts import UInt8
from deployments.errors import GenerationError
from deployments.preview.relief import relief
from deployments.stage2.mesh.corners import CornerField, pack
from deployments.stage2.mesh.native_extractor import extract_native
from deployments.stage2.mesh.pockets import enclosed_pockets
from deployments.stage2.mesh.solidify import seal_border
from deployments.stage2.mesh.surface import Float32, Mesh
from deployments.stage2.texture.views import VIEWS, View, foreground

Mask = NDArray[np.bool_]

RESOLUTION = 192  # cells a side of the preview's own grid: four pixels of the official picture
MARGIN = 4  # free voxels around the subject
SMOOTHING = 0.8  # voxels
INSET = 0.25  # voxels: the surface passes through the voxels of the shell, not around them
CREASE = 0.004  # of the cube: how softly silhouettes of two views meet
# Share of the silhouettes' common volume above which voxels say no more than the silhouettes do:
# people, whose cross sections are round, fill 0.77 of it; voxels carved by silhouettes, 0.91.
SILHOUETTES_ONLY = 0.85


def voxel_solid(voxels: NDArray[np.int16], grid: int) -> tuple[Mask, NDArray[np.int64]]:
    """Voxels with their inside filled, cropped with a margin, and where the crop starts.

    Stage 1's structure is a shell of voxels that the surface touches; its inside is empty.
    """
    if len(voxels) == 0:
        raise GenerationError(
            f"Stage 1 found no occupied voxel in its grid of {grid}: try another seed or picture",
            code="empty_structure",
        )
    low = voxels.min(axis=0).astype(np.int64) - MARGIN
    solid = np.zeros(voxels.max(axis=0) + MARGIN + 1 - low, bool)
    solid[tuple((voxels - low).T)] = True
    solid |= enclosed_pockets(solid)
    return solid, low


def signed_distance(inside: NDArray[np.bool_]) -> Float32:
    """Distance to the border between pixels or voxels, negative inside, in their own unit."""
    outward = ndimage.distance_transform_edt(~inside)
    inward = ndimage.distance_transform_edt(inside)
    distance: Float32 = (outward - inward + np.where(inside, 0.5, -0.5)).astype(np.float32)
    return distance


def preview_mesh(voxels: NDArray[np.int16], grid: int, normals: UInt8) -> Mesh:
    """The surface of the solid, cut to the silhouettes of views 0..3.

    Voxels that say no more than those silhouettes have rectangular cross sections; then the normal
    pictures carve them (relief.py).

    Args:
        voxels: (N, 3) occupied voxels, a shell or a solid.
        grid: voxels a side.
        normals: (4, H, H, 3) normal pictures; they also say where the subject is.
    """
    solid, low = voxel_solid(voxels, grid)
    body = ndimage.gaussian_filter(signed_distance(solid), SMOOTHING)

    # Corners of the preview's grid that lie within the crop, in voxel units of the crop.
    first = np.maximum(np.floor((low + 0.5) * RESOLUTION / grid).astype(int) + 1, 0)
    last = np.minimum(
        np.ceil((low + np.array(solid.shape) - 0.5) * RESOLUTION / grid).astype(int), RESOLUTION + 1
    )
    axes = [np.arange(a, b) for a, b in zip(first, last, strict=True)]
    places = [axis * grid / RESOLUTION - 0.5 - start for axis, start in zip(axes, low, strict=True)]
    where = np.stack(np.meshgrid(*places, indexing="ij"))
    sdf = ndimage.map_coordinates(body, where, order=1, mode="nearest") / grid
    hull = np.full((1, 1, 1), -np.inf)
    for view, picture in zip(VIEWS, normals, strict=False):
        hull = _smooth_max(hull, _silhouette_distance(foreground(picture), axes, view.column_axis))
    only_silhouettes = ((sdf < 0) & (hull < 0)).sum() > SILHOUETTES_ONLY * (hull < 0).sum()
    sdf = _smooth_max(sdf + INSET / grid, hull)
    if only_silhouettes:
        views = list(zip(VIEWS, normals, strict=False))
        for carving in [_carving(sdf, picture, view, axes) for view, picture in views]:
            sdf = _smooth_max(sdf, carving)

    near = np.argwhere(sdf < 2.0 / RESOLUTION)
    corners = torch.from_numpy(near + first)
    field = CornerField(
        RESOLUTION,
        pack(corners, RESOLUTION),
        torch.from_numpy(sdf[tuple(near.T)].astype(np.float32)),
        torch.zeros(len(near), 3),
        None,
    )
    nothing = torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 21)
    vertices, faces, _ = extract_native(seal_border(field), *nothing)
    if len(faces) == 0:
        raise GenerationError(
            "the silhouettes of the four views leave nothing of the voxels: they do not show the "
            "same subject; try another seed",
            code="empty_mesh",
        )
    return Mesh(vertices.numpy(), faces.to(torch.int32).numpy())


def _picture_places(
    size: int, axes: list[NDArray[np.int64]], column_axis: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Picture columns and rows of the corners as a view sees them, each (columns, heights)."""
    column = axes[column_axis] * size / RESOLUTION - 0.5
    row = (RESOLUTION - axes[2]) * size / RESOLUTION - 0.5
    columns, rows = np.meshgrid(column, row, indexing="ij")
    return columns, rows


def _silhouette_distance(
    shown: Mask, axes: list[NDArray[np.int64]], column_axis: int
) -> NDArray[np.float64]:
    """Signed distance to the silhouette of one view at all corners, broadcastable, in the cube."""
    size = shown.shape[0]
    distance = signed_distance(shown) / size
    columns, rows = _picture_places(size, axes, column_axis)
    flat = ndimage.map_coordinates(distance, np.stack((rows, columns)), order=1, mode="nearest")
    return np.asarray(np.expand_dims(flat, 1 - column_axis), np.float64)


def _carving(
    sdf: NDArray[np.float64], normal: UInt8, view: View, axes: list[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Distance in front of the surface that one view's normals describe, at all corners."""
    size = normal.shape[0]
    columns, rows = _picture_places(size, axes, view.column_axis)
    sampled = np.stack(
        [
            ndimage.map_coordinates(channel, np.stack((rows, columns)), order=1, mode="nearest")
            for channel in np.moveaxis(normal.astype(np.float32), -1, 0)
        ],
        axis=-1,
    )
    depth_axis = 1 - view.column_axis
    height = view.toward_camera[depth_axis] * (axes[depth_axis] / RESOLUTION - 0.5)
    inside = np.moveaxis(sdf < 0, depth_axis, 2)  # (column, row, depth)
    front = np.where(inside, height, -np.inf).max(axis=2)
    seen = np.asarray(inside.any(axis=2))
    surface, cosine = relief(sampled, seen, view, front, 1.0 / RESOLUTION)
    ahead = (height - surface[..., None]) * cosine[..., None]
    return np.asarray(np.moveaxis(ahead, 2, depth_axis), np.float64)


def _smooth_max(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The larger of two distances, rounded off where they meet."""
    overlap = np.maximum(CREASE - np.abs(a - b), 0.0) / CREASE
    return np.asarray(np.maximum(a, b) + overlap**2 * (CREASE / 4))
