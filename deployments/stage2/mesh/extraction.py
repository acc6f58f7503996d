"""The decoder's voxels become a triangle mesh."""

from __future__ import annotations

import logging

import torch

from deployments.errors import GenerationError
from deployments.stage2.mesh.corners import WEIGHTS, average_corners
from deployments.stage2.mesh.extractor import choose_extractor
from deployments.stage2.mesh.solidify import seal_border, solidify
from deployments.stage2.mesh.surface import Mesh

logger = logging.getLogger(__name__)


def extract_mesh(
    coords: torch.Tensor,
    features: torch.Tensor,
    resolution: int,
    *,
    backend: str = "native",
    faithful: bool = False,
    colours: bool = True,
) -> Mesh:
    """Corner averages, closed inner walls, iso-surface (model.md 15, geometry.md 3-5).

    Args:
        coords: (N, 3) integers 0..resolution-1, the decoder's voxels.
        features: (N, 101) its raw channels.
        resolution: voxels a side (256 official).
        backend: "native" or "kaolin"; the results are equal.
        faithful: leave inner walls, and holes at the border of the grid, as the official code does.
        colours: interpolate the decoder's six colour channels to the vertices.

    Raises:
        GenerationError: code "empty_mesh" when no corner is inside, "mesh_not_finite" when the
            decoder overflowed.
        BackendError: the backend is unknown or not usable.
    """
    extract = choose_extractor(backend)
    field = average_corners(coords, features, resolution, colours=colours)
    broken = sum(int((~torch.isfinite(part)).sum()) for part in (field.sdf, field.deform))
    if broken:
        raise GenerationError(
            f"{broken} of the mesh decoder's corner values are not finite: try another seed, or "
            "float32 instead of float16",
            code="mesh_not_finite",
        )
    if not faithful:
        field, filled = solidify(seal_border(field))
        logger.info("solidify filled %d corners at resolution %d", filled, resolution)
    if not bool((field.sdf < 0).any()):
        raise GenerationError(
            f"the mesh decoder left no corner of {len(field.sdf)} inside the surface: "
            "try another seed or another picture",
            code="empty_mesh",
        )
    vertices, faces, attributes = extract(field, coords, features[:, WEIGHTS])
    if len(faces) == 0:
        raise GenerationError(
            "the extracted surface has no faces: try another seed or another picture",
            code="empty_mesh",
        )
    return Mesh(
        vertices.cpu().numpy(),
        faces.to(torch.int32).cpu().numpy(),
        None if attributes is None else attributes.cpu().numpy(),
    )
