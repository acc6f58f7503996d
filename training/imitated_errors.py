"""What earlier stages get wrong, imitated: voxels, pictures and latents are generated at inference.

Decoders that only ever saw the truth follow it blindly: from true voxels and views the outline of
the GLB was at 0.97 with true latents, and at 0.93 with generated ones.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FAITHFUL = 0.3  # of the people keep their true voxels
MISSING, ADDED = 0.25, 0.35  # of the voxels, at most
PATCH = 4  # blocks of the grid in which errors hang together
UNTOUCHED = 0.2  # of the people keep their true latents
FARTHEST = 0.7  # of a channel's deviation: the largest error of latents
SCALES = ((1, 0.7), (2, 0.55), (4, 0.45))  # voxels that share an error, and its share; norm 1


def wrong_voxels(occupied: Tensor) -> Tensor:
    """(B, G, G, G) bool with patches of the surface missing, and others grown by a voxel."""
    people, device = len(occupied), occupied.device
    strength = torch.rand(people, 2, device=device)
    strength = strength * (torch.rand(people, 1, device=device) > FAITHFUL)
    count = occupied.flatten(1).sum(1)
    near = F.max_pool3d(occupied[:, None].float(), 3, 1, 1)[:, 0] > 0
    missing = _patches(occupied, (strength[:, 0] * MISSING * count).long())
    added = _patches(near & ~occupied, (strength[:, 1] * ADDED * count).long())
    return (occupied & ~missing) | added


def _patches(candidates: Tensor, count: Tensor) -> Tensor:
    """``count`` (B,) of the candidates (B, G, G, G) that hang together loosely."""
    people, grid = candidates.shape[:2]
    coarse = torch.randn(people, 1, *[grid // PATCH] * 3, device=candidates.device)
    score = F.interpolate(coarse, grid, mode="trilinear", align_corners=False)[:, 0]
    score = (score + 0.5 * torch.randn_like(score)).masked_fill(~candidates, -math.inf).flatten(1)
    ascending = score.sort(1).values
    place = (score.shape[1] - count).clamp(max=score.shape[1] - 1)
    least = ascending.gather(1, place[:, None])
    chosen = (score >= least) & (count > 0)[:, None]
    return chosen.view_as(candidates) & candidates


def wrong_latents(latents: Tensor, coords: Tensor, people: int, deviation: Tensor) -> Tensor:
    """(N, C) on voxels (N, 4) moved by errors that neighbours share in part.

    ``deviation`` (C,) is that of the latents. Some people keep theirs.
    """
    device, channels = latents.device, latents.shape[1]
    strength = FARTHEST * torch.rand(people, 1, device=device)
    strength = strength * (torch.rand(people, 1, device=device) > UNTOUCHED)
    person, place = coords[:, 0].long(), coords[:, 1:].long()
    side = int(place.max()) + 1 if len(place) else 1
    error = torch.zeros_like(latents)
    for size, share in SCALES:
        cells = -(-side // size)
        field = torch.randn(people * cells**3, channels, device=device)
        x, y, z = (place // size).unbind(1)
        error = error + share * field[((person * cells + x) * cells + y) * cells + z]
    return latents + error * strength[person] * deviation


def worn(pictures: Tensor) -> Tensor:
    """Pictures (..., 3, S, S) softer and noisier, like generated ones."""
    size = pictures.shape[-1]
    smaller = max(8, round(size * (0.45 + 0.55 * float(torch.rand(())))))
    flat = F.interpolate(pictures.flatten(0, -4), smaller, mode="area")
    flat = F.interpolate(flat, size, mode="bilinear", align_corners=False)
    flat = flat + 0.03 * math.sqrt(float(torch.rand(()))) * torch.randn_like(flat)
    return flat.clamp(0, 1).view(pictures.shape)


def turned_sides(pictures: Tensor) -> Tensor:
    """Pictures (B, 2, V, 3, S, S) whose views from the sides lie up to a voxel off in depth.

    A front picture does not say how far a limb reaches: views and voxels guess it apart.
    """
    size = pictures.shape[-1]
    farthest = size // 32
    result = pictures.clone()
    for person in range(len(pictures)):
        by = int(torch.randint(-farthest, farthest + 1, ()))
        if by and float(torch.rand(())) < 0.5:
            result[person, :, 1::2] = pictures[person, :, 1::2].roll(by, -1)
    return result
