"""Extraction with NVIDIA's Apache-2.0 FlexiCubes (kaolin 0.18 and later), if it really works here.

PyPI's ``kaolin`` 0.1 is a placeholder whose import fails, and a real one can break on a missing
torchvision or another torch build. So nothing is concluded from a package being found: the class is
imported, and its signature looked at (geometry.md 3).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from deployments.errors import BackendError
from deployments.stage2.mesh.corners import CornerField, pack, rows_of, unpack, with_default
from deployments.stage2.mesh.flexicubes import surface_cubes
from deployments.stage2.mesh.kaolin_install import (
    PLACEHOLDER,
    PLACEHOLDER_FOUND,
    REQUIRED,
    kaolin_version,
)
from deployments.stage2.mesh.native_extractor import Triangles


def import_flexicubes() -> Any:
    """kaolin's FlexiCubes class.

    Raises:
        BackendError: code "kaolin_unavailable"; ``detail["reason"]`` says what is wrong in words.
    """
    try:
        from kaolin.ops.conversions import FlexiCubes
    except Exception as error:  # a broken install raises ImportError, RuntimeError, OSError, ...
        raise BackendError(REQUIRED, code="kaolin_unavailable", reason=_why_not(error)) from error
    if "voxelgrid_features" not in inspect.signature(FlexiCubes.__call__).parameters:
        raise BackendError(
            REQUIRED,
            code="kaolin_unavailable",
            reason=f"kaolin {kaolin_version()} is too old: extraction needs 0.18 or later",
        )
    return FlexiCubes


def _why_not(error: Exception) -> str:
    version = kaolin_version()
    if version is None:
        return "kaolin is not installed"
    if version == PLACEHOLDER:
        return PLACEHOLDER_FOUND
    return f"kaolin {version} does not import: {type(error).__name__}: {error}"


class KaolinExtractor:
    """Calls kaolin on the dense box around the surface (its class has no sparse form)."""

    def __init__(self) -> None:
        self._flexicubes = import_flexicubes()

    def __call__(
        self, field: CornerField, coords: torch.Tensor, weights: torch.Tensor
    ) -> Triangles:
        """As `extract_native`; same vertices, faces and order."""
        R, device = field.resolution, field.keys.device
        cubes = unpack(surface_cubes(field, coords, weights).keys, R)
        low, high = cubes.amin(dim=0), cubes.amax(dim=0) + 1
        size = (high - low).tolist()

        corner = _box(low, [s + 1 for s in size])
        row = rows_of(field.keys, pack(corner, R))
        deform = with_default(field.deform, 0.0)[row]
        position = corner.float() / R - 0.5 + (1.0 - 1e-8) / (R * 2) * torch.tanh(deform)
        active, order = pack(coords, R).sort()
        cube = rows_of(active, pack(_box(low, size), R))
        raw = with_default(weights.float()[order], 0.0)[cube]

        engine = self._flexicubes(device=device)
        # Cubes name their corners by rows of the box, in the same corner order as ours.
        _, corner_rows = engine.construct_voxel_grid(size)
        result = engine(
            voxelgrid_vertices=position,
            scalar_field=with_default(field.sdf, 1.0)[row],
            cube_idx=corner_rows,
            resolution=size,
            beta=raw[:, 0:12],
            alpha=raw[:, 12:20],
            gamma_f=raw[:, 20],
            voxelgrid_features=None
            if field.colour is None
            else with_default(field.colour, 0.0)[row].sigmoid(),
        )
        return result[0], result[1], None if field.colour is None else result[3]


def _box(low: torch.Tensor, size: list[int]) -> torch.Tensor:
    """Integer coordinates of a box, x slowest, (X * Y * Z, 3)."""
    axes = [torch.arange(s, device=low.device) for s in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3) + low
