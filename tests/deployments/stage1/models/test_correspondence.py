"""The maps of model.md section 3, stated once more as loops."""

from __future__ import annotations

import itertools

import torch

from deployments.stage1.models.correspondence import pixels_of_voxels, voxels_of_pixels

N = 4


def test_a_voxel_reads_its_pixel_in_each_view() -> None:
    pictures = torch.arange(4 * N * N).view(1, 4, N, N)
    read = pixels_of_voxels(pictures)[0]
    for x, y, z in itertools.product(range(N), repeat=3):
        column = {0: x, 2: x, 1: y, 3: y}
        expected = {int(pictures[0, view, N - 1 - z, column[view]]) for view in range(4)}
        assert set(read[x, y, z].tolist()) == expected


def test_a_pixel_reads_the_voxels_along_its_axis() -> None:
    cells = torch.arange(N**3).view(1, N, N, N)
    read = voxels_of_pixels(cells)[0]
    for view, row, column in itertools.product(range(4), range(N), range(N)):
        line = (
            cells[0, column, :, N - 1 - row] if view % 2 == 0 else cells[0, :, column, N - 1 - row]
        )
        assert read[view, row, column].tolist() == line.tolist()
