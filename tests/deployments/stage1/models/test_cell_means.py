from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deployments.stage1.models.cell_means import cell_means


@pytest.mark.parametrize(("size", "cells"), [(12, 8), (8, 6), (7, 4), (5, 5), (4, 6)])
def test_means_are_those_of_adaptive_pooling(size: int, cells: int) -> None:
    picture, volume = torch.randn(2, 3, size, size), torch.randn(2, 3, size, size, size)
    flat = F.adaptive_avg_pool2d(picture, cells).flatten(2).transpose(1, 2)
    torch.testing.assert_close(cell_means(picture.movedim(1, -1), cells), flat)
    solid = F.adaptive_avg_pool3d(volume, cells).flatten(2).transpose(1, 2)
    torch.testing.assert_close(cell_means(volume.movedim(1, -1), cells), solid)
