from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from deployments.contracts import GenerationOptions
from deployments.errors import InputError
from deployments.stage2.finishing import finish
from deployments.stage2.render import render_glb


@pytest.fixture(scope="module")
def pictures(figure: Any) -> np.ndarray:
    options = GenerationOptions(texture_size=512, target_faces=4000)
    return render_glb(finish(figure.mesh, figure.multiview, options).glb, [0, 90, 180, 270], 96)


def test_the_front_shows_the_left_arm_on_the_right_and_the_back_mirrors_it(
    pictures: np.ndarray,
) -> None:
    drawn = (pictures < 250).any(axis=-1)
    front, back = drawn[0], drawn[2]
    head, columns = front[8:20].nonzero()[1].mean(), front.any(axis=0).nonzero()[0]
    assert columns.max() - head > 2 * (head - columns.min())
    iou = (front & back[:, ::-1]).sum() / (front | back[:, ::-1]).sum()
    assert iou > 0.97


def test_each_side_shows_its_own_colour(pictures: np.ndarray) -> None:
    """Green grows backward and red to the subject's left, so each pair of views differs."""
    middle = pictures[:, 50:70].reshape(4, -1, 3).astype(float)
    center = np.array([view[(view < 250).any(axis=1)].mean(axis=0) for view in middle])
    assert center[2, 1] > center[0, 1] + 25  # green: back against front
    assert center[1, 0] > center[3, 0] + 25  # red: left side (90 degrees) against right side


def test_the_background_is_white_and_the_subject_fills_the_picture(pictures: np.ndarray) -> None:
    assert (pictures[:, 0, 0] == 255).all()
    rows = (pictures[0] < 250).any(axis=(1, 2)).nonzero()[0]
    assert np.ptp(rows) > 0.85 * 96


@pytest.mark.parametrize("content", [b"", b"not a GLB at all", b"glTF" + bytes(40)])
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(InputError) as caught:
        render_glb(content, [0], 64)
    assert caught.value.code == "glb_unreadable"


def test_rendering_does_not_need_torch() -> None:
    code = "import sys; import deployments.stage2.render; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
