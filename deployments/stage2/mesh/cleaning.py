"""Drop floaters and cavities, then take away the faces that nobody needs (geometry.md 6)."""

from __future__ import annotations

import fast_simplification
import numpy as np

from deployments.errors import GenerationError
from deployments.stage2.mesh.surface import Mesh
from deployments.stage2.mesh.topology import body_labels, topology

SMALLEST_BODY = 0.01  # share of the largest body's volume below which a piece is a floater
# The library's default, 7, makes non-manifold edges; 3 stays within 0.01 voxel of slow decimation.
AGGRESSIVENESS = 3
FEWEST_FACES = 64
NEAR_ENOUGH = 1.5  # times the target


def keep_bodies(mesh: Mesh) -> Mesh:
    """Keep closed pieces above 1 % of the largest one's volume.

    Cavities turn their faces inward, so their volume is negative and they go as well.
    """
    labels = body_labels(mesh.faces, len(mesh.vertices))
    label = labels[mesh.faces[:, 0]]
    a, b, c = mesh.vertices.astype(np.float64)[mesh.faces].swapaxes(0, 1)
    cone = np.einsum("ij,ij->i", a, np.cross(b, c)) / 6.0
    volume = np.bincount(label, cone)
    if volume.max() <= 0:
        raise GenerationError(
            f"no piece of the extracted surface encloses any volume (largest {volume.max():.2g}): "
            "try another seed or another picture",
            code="empty_mesh",
        )
    keep = volume >= SMALLEST_BODY * volume.max()
    return Mesh(mesh.vertices, mesh.faces[keep[label]], mesh.attributes).compacted()


def decimate(mesh: Mesh, *, simplify: float = 0.7, target_faces: int | None = None) -> Mesh:
    """Quadric edge collapse down to `target_faces`, or by the share `simplify` of the faces.

    Attributes are dropped: the texture replaces them. A mesh that is already small enough comes
    back as it is. A closed mesh stays closed, with more faces where it must.
    """
    faces = len(mesh.faces)
    target = round(faces * (1.0 - simplify)) if target_faces is None else target_faces
    target = max(target, FEWEST_FACES)
    if target >= faces:
        return Mesh(mesh.vertices, mesh.faces)
    reduced = _collapse(mesh, target, AGGRESSIVENESS)
    if topology(reduced).watertight or not topology(mesh).watertight:
        return reduced
    # The fast collapse opened the mesh. A gentler one keeps it closed, where it gets near the
    # target at all; else the fast one stops earlier.
    gentle = _collapse(mesh, target, 1)
    while len(gentle.faces) > NEAR_ENOUGH * target and (target := 2 * target) < faces:
        reduced = _collapse(mesh, target, AGGRESSIVENESS)
        if topology(reduced).watertight:
            return reduced
    return gentle


def _collapse(mesh: Mesh, target: int, aggressiveness: int) -> Mesh:
    """Collapse edges until the target is reached; low aggressiveness may take several rounds."""
    vertices, faces = mesh.vertices, mesh.faces
    while len(faces) > target:
        before = len(faces)
        vertices, faces = fast_simplification.simplify(
            vertices, faces, target_count=target, agg=aggressiveness
        )
        if len(faces) > 0.98 * before:
            break
    return Mesh(vertices.astype(np.float32), faces.astype(np.int32)).compacted()
