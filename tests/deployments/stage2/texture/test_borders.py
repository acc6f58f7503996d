from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import ndimage

from deployments.stage2.texture.borders import confidence, distance_inside, without_rim
from deployments.stage2.texture.drawing import view_depth
from deployments.stage2.texture.views import VIEWS, View, foreground


def test_the_rim_takes_the_colour_inside_it() -> None:
    """A green square whose outermost pixels are half white."""
    picture = np.full((40, 40, 3), 255, np.uint8)
    picture[10:30, 10:30] = (128, 255, 128)
    picture[11:29, 11:29] = (0, 255, 0)
    shown = np.zeros((40, 40), bool)
    shown[10:30, 10:30] = True
    clean = without_rim(torch.from_numpy(picture), torch.from_numpy(shown)).numpy()
    assert (clean[10:30, 10:30] == (0, 255, 0)).all()
    assert (clean[:7] == 255).all()


def test_parts_too_thin_to_have_an_inside_stay() -> None:
    picture = np.full((20, 20, 3), 255, np.uint8)
    picture[:, 10:12] = (200, 10, 10)
    thin = torch.from_numpy(picture)
    assert torch.equal(without_rim(thin, (thin < 230).any(dim=-1)), thin)


def test_distances_are_exact_within_reach() -> None:
    mask = np.random.default_rng(0).random((40, 50)) < 0.97
    mask[5:25, 10:35] = True
    exact = ndimage.distance_transform_edt(mask)
    found = distance_inside(torch.from_numpy(mask), 6).numpy()
    assert np.allclose(found.clip(0, 6), exact.clip(0, 6))


def _trust(figure: Any, view: View, shown: np.ndarray, shift: tuple[float, float]) -> Any:
    depth = view_depth(figure.mesh, view, len(shown), torch.device("cpu"))
    return confidence(view, depth, torch.from_numpy(shown), np.array(shift)).numpy(), depth.numpy()


def test_confidence_fades_at_silhouettes_and_depth_jumps(figure: Any) -> None:
    trust, depth = _trust(figure, VIEWS[1], foreground(figure.multiview.normal[1]), (0.0, 0.0))
    covered = np.isfinite(depth)
    assert (trust[~covered] == 0).all()
    assert trust.max() == 1.0
    jump = np.abs(np.diff(np.where(covered, depth, np.nan), axis=0)) > 0.02
    assert jump.any()  # the left arm stands out toward this camera
    assert (trust[1:][jump] == 0).all()
    assert (trust[:-1][jump] == 0).all()


def test_a_shift_moves_the_silhouette_with_the_picture(figure: Any) -> None:
    shown = foreground(figure.multiview.normal[0])
    moved, _ = _trust(figure, VIEWS[0], np.roll(shown, 5, axis=1), (5.0, 0.0))
    assert np.array_equal(moved, _trust(figure, VIEWS[0], shown, (0.0, 0.0))[0])


def test_the_face_picture_fades_toward_its_frame(figure: Any) -> None:
    trust, _ = _trust(figure, VIEWS[4], foreground(figure.multiview.normal[4]), (0.0, 0.0))
    assert trust[-1].max() == 0
    assert trust[len(trust) // 2].max() > trust[-8].max()
