from __future__ import annotations

from typing import Any

import numpy as np

from deployments.stage2.texture.projection import confidence, without_rim
from deployments.stage2.texture.views import VIEWS, foreground


def test_the_rim_takes_the_colour_inside_it() -> None:
    """A green square whose outermost pixels are half white."""
    picture = np.full((40, 40, 3), 255, np.uint8)
    picture[10:30, 10:30] = (128, 255, 128)
    picture[11:29, 11:29] = (0, 255, 0)
    shown = np.zeros((40, 40), bool)
    shown[10:30, 10:30] = True
    clean = without_rim(picture, shown)
    assert (clean[10:30, 10:30] == (0, 255, 0)).all()
    assert (clean[:7] == 255).all()


def test_parts_too_thin_to_have_an_inside_stay() -> None:
    picture = np.full((20, 20, 3), 255, np.uint8)
    picture[:, 10:12] = (200, 10, 10)
    assert np.array_equal(without_rim(picture, (picture < 230).any(axis=-1)), picture)


def test_confidence_fades_at_silhouettes_and_depth_jumps(figure: Any) -> None:
    view, size = VIEWS[1], figure.multiview.normal.shape[1]
    raster = view.draw(figure.mesh, size)
    trust = confidence(view, raster, foreground(figure.multiview.normal[1]), np.zeros(2))
    assert (trust[~raster.covered] == 0).all()
    assert trust.max() == 1.0
    depth = np.where(raster.covered, raster.depth, np.nan)
    jump = np.abs(np.diff(depth, axis=0)) > 0.02
    assert jump.any()  # the left arm stands out toward this camera
    assert (trust[1:][jump] == 0).all()
    assert (trust[:-1][jump] == 0).all()


def test_a_shift_moves_the_silhouette_with_the_picture(figure: Any) -> None:
    view, size = VIEWS[0], figure.multiview.normal.shape[1]
    raster = view.draw(figure.mesh, size)
    shown = foreground(figure.multiview.normal[0])
    moved = confidence(view, raster, np.roll(shown, 5, axis=1), np.array([5.0, 0.0]))
    assert np.array_equal(moved, confidence(view, raster, shown, np.zeros(2)))


def test_the_face_picture_fades_toward_its_frame(figure: Any) -> None:
    view, size = VIEWS[4], figure.multiview.normal.shape[1]
    trust = confidence(
        view, view.draw(figure.mesh, size), foreground(figure.multiview.normal[4]), np.zeros(2)
    )
    assert trust[-1].max() == 0
    assert trust[size // 2].max() > trust[-8].max()
