"""The mesh drawn into the pictures and into the atlas: by compiled loops, or on the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deployments.stage2.mesh.surface import Float64, Mesh
from deployments.stage2.mesh.unwrap import Atlas
from deployments.stage2.texture.device import raster as device_raster
from deployments.stage2.texture.projection import Texels
from deployments.stage2.texture.rasterizer import interpolate, rasterize
from deployments.stage2.texture.views import View


def view_depth(mesh: Mesh, view: View, size: int, device: torch.device) -> Tensor:
    """Depth of the mesh in a picture of `size` pixels a side, infinite beside it, (H, H)."""
    if device.type == "cpu":
        return torch.from_numpy(view.draw(mesh, size).depth)
    points = np.stack(view.project(mesh.vertices.astype(np.float64), size), axis=1)
    faces = torch.from_numpy(mesh.faces).to(device).long()
    return device_raster.rasterize(_on(points, device), faces, (size, size)).depth


def surface_texels(
    mesh: Mesh, atlas: Atlas, texture_size: int, device: torch.device
) -> tuple[Texels, Tensor]:
    """Position and smooth normal of every texel inside a chart, and where those are, (T, T)."""
    uv = atlas.uv.astype(np.float64)
    column, row = uv[:, 0] * texture_size - 0.5, (1.0 - uv[:, 1]) * texture_size - 0.5
    depth, shape = np.zeros(len(uv)), (texture_size, texture_size)
    values = np.concatenate((mesh.vertices, mesh.vertex_normals()), axis=1, dtype=np.float32)
    values = values[atlas.source]
    if device.type == "cpu":
        raster = rasterize(column, row, depth, atlas.faces, shape)
        found = torch.from_numpy(interpolate(raster, atlas.faces, values))
        covered = torch.from_numpy(raster.covered)
    else:
        points = _on(np.stack((column, row, depth), axis=1), device)
        faces = torch.from_numpy(atlas.faces).to(device).long()
        drawn = device_raster.rasterize(points, faces, shape)
        found = device_raster.interpolate(drawn, points, faces, torch.from_numpy(values).to(device))
        covered = drawn.covered
    position, normal = found.split(3, dim=1)
    normal = torch.nn.functional.normalize(normal, dim=1)
    return Texels(position.contiguous(), normal.contiguous()), covered


def _on(points: Float64, device: torch.device) -> Tensor:
    return torch.from_numpy(points).to(device)
