from __future__ import annotations

from typing import Any

import numpy as np

from deployments.stage2.mesh.unwrap import unwrap
from deployments.stage2.texture.bake import bake
from deployments.stage2.texture.face import AGREES_BELOW, face_difference
from deployments.stage2.texture.views import foreground


def test_a_true_face_agrees_with_the_front(figure: Any) -> None:
    views = figure.multiview
    shows = foreground(views.normal[[0, 4]])
    assert face_difference(views.color[0], views.color[4], shows) < AGREES_BELOW / 2


def test_a_face_of_another_colour_does_not(figure: Any) -> None:
    views = figure.multiview
    shows = foreground(views.normal[[0, 4]])
    other = np.full_like(views.color[4], (20, 220, 20))
    assert face_difference(views.color[0], other, shows) > 2 * AGREES_BELOW


def test_pictures_without_a_common_pixel_never_agree(figure: Any) -> None:
    color = figure.multiview.color
    nothing = np.zeros((2, *color.shape[1:3]), bool)
    assert face_difference(color[0], color[4], nothing) == np.inf


def test_a_face_that_is_not_the_fronts_paints_nothing(figure: Any) -> None:
    views, atlas = figure.multiview, unwrap(figure.mesh, 256)
    shown = bake(figure.mesh, atlas, views.color, views.normal, 256)
    wrong = views.color.copy()
    wrong[4] = (20, 220, 20)
    baked = bake(figure.mesh, atlas, wrong, views.normal, 256)
    green = np.abs(baked.pixels.astype(int) - (20, 220, 20)).max(-1) < 12
    assert green.mean() < 0.001
    assert abs(baked.seen - shown.seen) < 0.02
