from __future__ import annotations

import torch

from deployments.layers.voxels import patchify, pixel_shuffle_3d


def test_pixel_shuffle_undoes_patchify() -> None:
    grid = torch.randn(2, 3, 4, 4, 4)
    torch.testing.assert_close(pixel_shuffle_3d(patchify(grid, 2), 2), grid)


def test_places_of_a_patch_run_along_z_first() -> None:
    grid = torch.arange(8.0).view(1, 1, 2, 2, 2)
    assert patchify(grid, 2).flatten().tolist() == list(range(8))
