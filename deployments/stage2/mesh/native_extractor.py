"""Extraction with our own FlexiCubes, on any device that torch has."""

from __future__ import annotations

import torch

from deployments.stage2.mesh.corners import CornerField
from deployments.stage2.mesh.flexicubes import contour, surface_cubes

Triangles = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


def extract_native(field: CornerField, coords: torch.Tensor, weights: torch.Tensor) -> Triangles:
    """Vertices (V, 3), faces (F, 3) and attributes (V, 6) of the zero level.

    Args:
        field: values at the corners.
        coords: (N, 3) active voxels.
        weights: (N, 21) their raw FlexiCubes weights.
    """
    return contour(surface_cubes(field, coords, weights), field.resolution)
