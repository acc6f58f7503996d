"""From the extracted mesh to the files of an asset: clean, decimate, unwrap, bake, export."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from deployments.contracts import (
    Asset,
    GenerationOptions,
    MeshStatistics,
    MultiviewResult,
    OutputFormat,
    Surface,
)
from deployments.stage2.export import to_obj_zip, to_ply, to_splats
from deployments.stage2.gaussians import Gaussians
from deployments.stage2.glb import to_glb
from deployments.stage2.mesh.cleaning import decimate, keep_bodies
from deployments.stage2.mesh.surface import Mesh
from deployments.stage2.mesh.topology import topology
from deployments.stage2.mesh.unwrap import unwrap
from deployments.stage2.texture.bake import bake

NAME = "synchuman"


def finish(
    mesh: Mesh,
    multiview: MultiviewResult,
    options: GenerationOptions,
    *,
    gaussians: Gaussians | None = None,
    provenance: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> Asset:
    """Turn the raw surface and the five pictures into files.

    Args:
        mesh: as extracted, in the frame of model.md 3.
        multiview: its pictures colour the mesh.
        options: texture size and format, faces, extra formats.
        gaussians: colour of unseen texels, and the content of the splats file; with them the asset
            keeps its surface, for :func:`finish_again`.
        provenance: JSON-ready facts for ``asset.extras`` (checkpoint, seed, steps, version).
        device: where to bake; everything else runs on the CPU.

    Raises:
        GenerationError: the surface encloses nothing, or no picture shows it.
    """
    timings: dict[str, float] = {}
    with _timed(timings, "clean"):
        mesh = keep_bodies(mesh)
    provenance = dict(provenance or {})
    asset = _files(mesh, multiview, options, gaussians, provenance, device, timings)
    if gaussians is None:
        return asset
    return replace(
        asset, surface=Surface(mesh.vertices, mesh.faces, gaussians.packed(), provenance)
    )


def finish_again(surface: Surface, multiview: MultiviewResult, options: GenerationOptions) -> Asset:
    """Make an asset's files with other options, on the CPU.

    With the options of the first time the files are the same, if that was on a CPU too.

    Args:
        surface: of an earlier asset.
        multiview: the pictures that it was made with.
        options: texture size and format, faces, extra formats; the rest is done.
    """
    gaussians = Gaussians.unpacked(surface.gaussians)
    mesh = Mesh(surface.vertices, surface.faces)
    return _files(mesh, multiview, options, gaussians, surface.provenance, "cpu", {})


def _files(
    mesh: Mesh,
    multiview: MultiviewResult,
    options: GenerationOptions,
    gaussians: Gaussians | None,
    provenance: Mapping[str, Any],
    device: torch.device | str,
    timings: dict[str, float],
) -> Asset:
    with _timed(timings, "decimate"):
        mesh = decimate(mesh, simplify=options.simplify, target_faces=options.target_faces)
    with _timed(timings, "unwrap"):
        atlas = unwrap(mesh, options.texture_size)
    with _timed(timings, "bake"):
        texture = bake(
            mesh,
            atlas,
            multiview.color,
            multiview.normal,
            options.texture_size,
            gaussians=gaussians,
            device=device,
        )
    with _timed(timings, "export"):
        glb = to_glb(
            mesh,
            atlas,
            texture.pixels,
            name=NAME,
            provenance=provenance,
            texture_format=options.texture_format,
        )
        uv = np.zeros((len(mesh.vertices), 2), np.float32)
        uv[atlas.source] = atlas.uv
        mesh_ply = to_ply(mesh, texture.at(uv))
        splats = None
        if OutputFormat.SPLATS in options.formats and gaussians is not None:
            splats = to_splats(gaussians)
        obj = None
        if OutputFormat.OBJ in options.formats:
            obj = to_obj_zip(mesh, atlas, texture.pixels, name=NAME)
    found = topology(mesh)
    statistics = MeshStatistics(
        vertices=len(mesh.vertices),
        faces=len(mesh.faces),
        watertight=found.watertight,
        edge_manifold=found.edge_manifold,
        bodies=found.bodies,
        volume=mesh.volume(),
        texture_size=options.texture_size,
        texels_seen=texture.seen,
    )
    return Asset(glb, mesh_ply, statistics, splats, obj, timings)


@contextmanager
def _timed(timings: dict[str, float], part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[part] = time.perf_counter() - start
