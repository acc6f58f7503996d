"""Which voxels the surface touches, and a few numbers about the surface inside each."""

from __future__ import annotations

from dataclasses import dataclass

import torch

LATTICE = 3  # sample points a triangle side, more than a voxel ever needs at 64 a side


def surface_weights(device: torch.device, side: int = LATTICE) -> torch.Tensor:
    """(P, 3) barycentric weights of a triangular lattice that includes the corners."""
    rows = [
        (i / side, j / side, (side - i - j) / side)
        for i in range(side + 1)
        for j in range(side + 1 - i)
    ]
    return torch.tensor(rows, device=device)


def occupancy(vertices: torch.Tensor, faces: torch.Tensor, grid: int) -> torch.Tensor:
    """(B, grid, grid, grid) bool over x, y, z: voxels of the cube that the surface touches."""
    corners = vertices[:, faces]  # (B, F, 3, 3)
    occupied = torch.zeros(len(vertices), grid**3, dtype=torch.bool, device=vertices.device)
    for weights in surface_weights(vertices.device):
        points = (corners * weights[:, None]).sum(2)
        occupied.scatter_(1, voxel_numbers(points, grid), True)
    return occupied.view(-1, grid, grid, grid)


def voxel_numbers(points: torch.Tensor, grid: int) -> torch.Tensor:
    """(B, P, 3) in the cube -> (B, P) row-major voxel numbers; points outside go to the border."""
    x, y, z = ((points + 0.5) * grid).long().clamp(0, grid - 1).unbind(-1)
    return (x * grid + y) * grid + z


@dataclass(frozen=True)
class SurfaceSummary:
    """Means over the surface points of each occupied voxel; rows sorted by subject, x, y, z."""

    coords: torch.Tensor  # (N, 4) int32 subject, x, y, z
    offset: torch.Tensor  # (N, 3) mean point relative to the voxel's centre, in voxels
    normal: torch.Tensor  # (N, 3) mean unit normal, shorter where the surface turns
    color: torch.Tensor  # (N, 3)


def summarise_surface(
    vertices: torch.Tensor,
    normals: torch.Tensor,
    colors: torch.Tensor,
    faces: torch.Tensor,
    grid: int,
) -> SurfaceSummary:
    """Average position, normal and colour (B, V, 3) of the surface in every voxel it touches.

    Faces count by their area, so collapsed ones leave no trace.
    """
    subjects = len(vertices)
    corners = vertices[:, faces]
    normal = torch.linalg.cross(
        corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]
    )
    area = normal.norm(dim=-1, keepdim=True) + 1e-9
    rows = torch.cat([normals[:, faces], colors[:, faces]], -1)  # (B, F, 3, 6)
    sums = torch.zeros(subjects * grid**3, 10, device=vertices.device)
    first = torch.arange(subjects, device=vertices.device)[:, None] * grid**3
    for weights in surface_weights(vertices.device):
        points = (corners * weights[:, None]).sum(2)
        values = (rows * weights[:, None]).sum(2)
        number = voxel_numbers(points, grid)
        index = torch.stack([number // grid**2, number // grid % grid, number % grid], -1)
        offset = (points + 0.5) * grid - index - 0.5
        row = torch.cat([offset * area, values * area, area], -1)
        sums.index_add_(0, (number + first).flatten(), row.flatten(0, 1))
    taken = (sums[:, 9] > 0).nonzero()[:, 0]
    means = sums[taken, :9] / sums[taken, 9:]
    number = taken % grid**3
    coords = torch.stack(
        [taken // grid**3, number // grid**2, number // grid % grid, number % grid], 1
    )
    return SurfaceSummary(coords.int(), *means.split(3, 1))
