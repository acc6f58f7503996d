"""From the decoder's channels to values at the corners of the grid (model.md 15, steps 1-4).

A corner is named by one packed number, ((x (R + 1)) + y) (R + 1) + z, and lists of corners are kept
ascending: packed keys sort and search faster than rows, and every order that extraction relies on
survives (geometry.md 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from deployments.errors import GenerationError
from deployments.stage2.mesh.corner_sums import corner_sums
from deployments.stage2.mesh.dual_tables import CORNERS

CHANNELS = 101  # sdf 8 | deform 8x3 | weights 21 | colour and normal 8x6
SDF, DEFORM, WEIGHTS, COLOUR = slice(0, 8), slice(8, 32), slice(32, 53), slice(53, 101)


@dataclass(frozen=True)
class CornerField:
    """Values at the C corners of the active voxels; all other corners are outside (sdf +1)."""

    resolution: int  # R: voxels a side
    keys: torch.Tensor  # (C,) int64, ascending
    sdf: torch.Tensor  # (C,) float32, negative inside, bias included
    deform: torch.Tensor  # (C, 3) float32, before tanh
    colour: torch.Tensor | None  # (C, 6) float32, before the sigmoid

    def coords(self) -> torch.Tensor:
        """Integer corner coordinates, (C, 3), each 0..R."""
        return unpack(self.keys, self.resolution)


def pack(coords: torch.Tensor, resolution: int) -> torch.Tensor:
    """(..., 3) integer corner or cube coordinates -> (...) keys."""
    side = resolution + 1
    x, y, z = coords.to(torch.int64).unbind(-1)
    return (x * side + y) * side + z


def unpack(keys: torch.Tensor, resolution: int) -> torch.Tensor:
    """(N,) keys -> (N, 3) coordinates; the inverse of `pack`."""
    side = resolution + 1
    return torch.stack(
        (
            keys.div(side * side, rounding_mode="floor"),
            keys.div(side, rounding_mode="floor") % side,
            keys % side,
        ),
        dim=-1,
    )


def corner_offsets(resolution: int, device: torch.device) -> torch.Tensor:
    """What to add to a cube's key to name its eight corners, (8,)."""
    return pack(torch.from_numpy(CORNERS).to(device), resolution)


def rows_of(keys: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Row of each wanted key in the ascending `keys`, or len(keys) where it is missing."""
    if len(keys) == 0:
        return torch.zeros_like(wanted)
    row = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return torch.where(keys[row] == wanted, row, len(keys))


def with_default(values: torch.Tensor, default: float) -> torch.Tensor:
    """Append the row that missing keys read."""
    return torch.cat((values, values.new_full((1, *values.shape[1:]), default)))


def average_corners(
    coords: torch.Tensor, features: torch.Tensor, resolution: int, *, colours: bool = True
) -> CornerField:
    """Average what the voxels around each corner say about it.

    Args:
        coords: (N, 3) integers 0..R-1, the active voxels, no voxel twice.
        features: (N, 101) the mesh decoder's raw channels.
        resolution: R, voxels a side of the grid.
        colours: keep the 48 colour channels; the GLB does not need them.

    The sum runs in the order of the voxels on every device, so results do not vary between runs.
    """
    if features.ndim != 2 or features.shape != (len(coords), CHANNELS):
        raise GenerationError(
            f"mesh features have shape {tuple(features.shape)}, extraction needs "
            f"({len(coords)}, {CHANNELS}): pass one row of {CHANNELS} channels per voxel",
            code="mesh_features_shape",
        )
    parts = (SDF, DEFORM, COLOUR) if colours else (SDF, DEFORM)
    channels = torch.arange(CHANNELS)
    columns = torch.cat([channels[part].reshape(8, -1) for part in parts], dim=1)  # (8, 4 or 10)
    lowered = torch.zeros(columns.shape[1])
    lowered[0] = 1.0 / resolution
    features = features.float()
    if features.device.type == "cpu":
        places, heard, sums = corner_sums(
            coords.long().numpy(), features.numpy(), columns.numpy(), lowered.numpy()
        )
        keys = pack(torch.from_numpy(places), resolution)
        mean = torch.from_numpy(sums) / torch.from_numpy(heard)[:, None]
    else:
        device = features.device
        values = features[:, columns.to(device)] - lowered.to(device)
        keys, mean = means_by_sorting(coords, values, resolution)
    return CornerField(
        resolution, keys, mean[:, 0], mean[:, 1:4], mean[:, 4:10] if colours else None
    )


def means_by_sorting(
    coords: torch.Tensor, values: torch.Tensor, resolution: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys (C,) and means (C, K) of values (N, 8, K) at the voxels' corners, as a GPU likes it."""
    stacked = values.flatten(0, 1)
    key = pack(coords, resolution)[:, None] + corner_offsets(resolution, coords.device)
    key, order = key.flatten().sort(stable=True)
    keys, count = torch.unique_consecutive(key, return_counts=True)
    start = count.cumsum(0) - count
    # A corner hears at most eight voxels; one pass per rank writes every corner once.
    total = stacked[order[start]]
    for rank in range(1, 8):
        heard = (count > rank).nonzero()[:, 0]
        total[heard] += stacked[order[start[heard] + rank]]
    return keys, total / count[:, None]
