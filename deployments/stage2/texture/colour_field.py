"""Colours for the few texels that no picture sees: under the arms, on the crown, under the chin."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from deployments.stage2.compiled import workers
from deployments.stage2.gaussians import Gaussians
from deployments.stage2.texture.device.field import Cloud, sums_around
from deployments.stage2.texture.projection import Texels

NEIGHBOURS = 16  # Gaussians a point: 8 measure 0.3 dB worse, 32 no better
SEEN_NEIGHBOURS = 8
NORMAL_LENGTH = 0.0125  # of the cube: how far apart two opposite sides of a thin part count
MOST_SEEN = 200_000
CELL = 0.0025  # of the cube, two pixels of the official picture: what is smooth varies slower
SUPPORT = 1e-6  # weight below which no Gaussian reaches a point


def from_gaussians(points: Tensor, gaussians: Gaussians) -> Tensor:
    """Opacity-weighted mean colour of the nearest Gaussians at points (P, 3), 0..255, (P, 3).

    Weights fall with the Mahalanobis distance; where nothing reaches, the nearest centre decides.
    The field is evaluated on a lattice around the points and interpolated.
    """
    cloud = cloud_of(gaussians, points.device)
    return 255.0 * on_lattice(points, lambda places: field(places, cloud)).clamp(0.0, 1.0)


def cloud_of(gaussians: Gaussians, device: torch.device) -> Cloud:
    """The Gaussians on a device, with what turns offsets into standard deviations."""
    xyz, scale, rotation, opacity, color = (
        torch.from_numpy(values).to(device)
        for values in (
            gaussians.xyz,
            gaussians.scale,
            gaussians.rotation,
            gaussians.opacity,
            gaussians.color,
        )
    )
    return Cloud(xyz, _axes(rotation).mT / scale[:, :, None], opacity, color)


def field(points: Tensor, cloud: Cloud) -> Tensor:
    """Colour at points (P, 3) on the device of the cloud, (P, 3)."""
    if points.device.type == "cpu":
        return _by_tree(points, cloud)
    colour, weight = sums_around(points, cloud)
    colour = colour / weight.clamp(min=SUPPORT)[:, None]
    alone = (weight < SUPPORT).nonzero()[:, 0]
    if len(alone):
        on_cpu = Cloud(
            cloud.xyz.cpu(), cloud.whitening.cpu(), cloud.opacity.cpu(), cloud.color.cpu()
        )
        colour[alone] = _by_tree(points[alone].cpu(), on_cpu).to(points.device)
    return colour


def _by_tree(points: Tensor, cloud: Cloud) -> Tensor:
    tree = cKDTree(cloud.xyz.numpy(), balanced_tree=False, compact_nodes=False)
    k = min(NEIGHBOURS, len(cloud.xyz))
    _, found = tree.query(points.numpy(), k=k, workers=workers())
    near = torch.from_numpy(found.reshape(len(points), k))
    weight = cloud.weights(points[:, None] - cloud.xyz[near], near)
    total = weight.sum(dim=1)
    colour = (weight[..., None] * cloud.color[near]).sum(dim=1) / total.clamp(min=1e-12)[:, None]
    alone = total < SUPPORT
    colour[alone] = cloud.color[near[alone, 0]]
    return colour


def on_lattice(points: Tensor, evaluate: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of places (K, 3) -> (K, C), evaluated around the points only, at each, (P, C)."""
    scaled = points / CELL
    corner = scaled.floor()
    within = scaled - corner
    side = round(4 / CELL)
    steps = torch.tensor([[k >> 2 & 1, k >> 1 & 1, k & 1] for k in range(8)], device=points.device)
    weigh = torch.tensor([side * side, side, 1], device=points.device)
    cells, cell_of = torch.unique(
        ((corner.long() + side // 2) * weigh).sum(dim=1), return_inverse=True
    )
    corners, row = torch.unique(cells[:, None] + (steps * weigh).sum(dim=1), return_inverse=True)
    place = torch.stack((corners // side**2, corners // side % side, corners % side), dim=1)
    values = evaluate((place - side // 2).to(points.dtype) * CELL)
    result = values.new_zeros(len(points), values.shape[1])
    for k in range(8):
        share = torch.where(steps[k].bool(), within, 1.0 - within).prod(dim=1)
        result += share[:, None] * values[row[cell_of, k]]
    return result


def from_seen(unseen: Texels, seen: Texels, colours: Tensor) -> Tensor:
    """Colours of the nearest seen texels, in position and a little in direction, (P, 3).

    Args:
        unseen: P texels that need a colour.
        seen: texels that have one.
        colours: theirs, (S, 3), 0..255.
    """
    stride = max(1, -(-len(seen.position) // MOST_SEEN))
    tree = cKDTree(_place(seen)[::stride].cpu().numpy(), balanced_tree=False, compact_nodes=False)
    k = min(SEEN_NEIGHBOURS, tree.n)
    place = _place(unseen)
    cell, side = (place[:, :3] / CELL).floor().long(), round(2 / CELL)
    _, cell_of = torch.unique(
        (cell[:, 0] * side + cell[:, 1]) * side + cell[:, 2], return_inverse=True
    )
    # One texel stands for all in its cell.
    first = torch.full((int(cell_of.max()) + 1,), len(place), device=place.device)
    first.scatter_reduce_(0, cell_of, torch.arange(len(place), device=place.device), "amin")
    distance, near = (
        torch.from_numpy(found.reshape(-1, k)).to(place.device)
        for found in tree.query(place[first].cpu().numpy(), k=k, workers=workers())
    )
    weight = (1.0 / (distance + 1e-3) ** 2).float()
    weight /= weight.sum(dim=1, keepdim=True)
    return (weight[..., None] * colours[::stride][near]).sum(dim=1)[cell_of]


def _place(texels: Texels) -> Tensor:
    return torch.cat((texels.position, NORMAL_LENGTH * texels.normal), dim=1)


def _axes(rotation: Tensor) -> Tensor:
    """Unit quaternions (M, 4) -> rotation matrices (M, 3, 3), own axes as columns."""
    w, x, y, z = rotation.unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
