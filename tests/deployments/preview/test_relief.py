from __future__ import annotations

import numpy as np
import pytest

from deployments.preview.relief import relief
from deployments.stage2.texture.views import VIEWS

CELLS, STEP, RADIUS = 40, 1 / 192, 15 / 192  # as wide as a thigh


def _dome(view_number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normal picture (column, height, 3) of a ball, where it is, and its height to the camera."""
    view = VIEWS[view_number]
    u, z = np.meshgrid(*[(np.arange(CELLS) + 0.5 - CELLS / 2) * STEP] * 2, indexing="ij")
    inside = u**2 + z**2 < (0.95 * RADIUS) ** 2
    height = np.sqrt(np.maximum(RADIUS**2 - u**2 - z**2, 0.0))
    normal = np.zeros((CELLS, CELLS, 3))
    normal[..., view.column_axis] = u / RADIUS
    normal[..., 1 - view.column_axis] = height / RADIUS * view.toward_camera[1 - view.column_axis]
    normal[..., 2] = z / RADIUS
    stored = normal[..., [0, 2, 1]] * (1, 1, -1)
    picture = np.where(inside[..., None], (stored + 1) / 2 * 255, 255).astype(np.uint8)
    return picture, inside, height


@pytest.mark.parametrize("view", range(4))
def test_a_ball_is_found_behind_its_flat_hull(view: int) -> None:
    picture, inside, height = _dome(view)
    hull = np.full((CELLS, CELLS), RADIUS)
    surface, cosine = relief(picture, inside, VIEWS[view], hull, STEP)
    flat = np.abs(hull - height)[inside].mean()
    assert np.abs(surface - height)[inside].mean() < 0.65 * flat
    assert np.isinf(surface[~inside]).all()
    assert (surface[inside] < RADIUS + STEP).all()
    assert cosine[inside].min() > 0


def test_limbs_at_different_depths_are_not_joined() -> None:
    """Two flat plates side by side, facing the camera, one far behind the other."""
    picture = np.empty((40, 20, 3), np.uint8)
    picture[:] = (128, 128, 255)  # n = -y, stored as B = 1
    hull = np.where(np.arange(40)[:, None] < 20, 0.2, -0.2) * np.ones((40, 20))
    surface, _ = relief(picture, np.ones((40, 20), bool), VIEWS[0], hull, STEP)
    assert np.allclose(surface, hull, atol=0.01)
