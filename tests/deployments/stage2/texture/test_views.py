import numpy as np
import pytest

from deployments.stage2.texture.views import VIEWS, foreground

FRONT, RIGHT, BACK, LEFT, FACE = VIEWS


def _at(view, point: tuple[float, float, float], size: int = 768) -> tuple[float, float]:
    column, row, _ = view.project(np.array([point]), size)
    return float(column[0]), float(row[0])


def test_columns_run_along_the_volume_in_all_pictures() -> None:
    """Pictures 2 and 3 are stored mirrored: the subject's left is on the same side as in 0."""
    for view in (FRONT, BACK):
        assert _at(view, (0.25, 0.1, 0.0)) == (575.5, 383.5)
    for view in (RIGHT, LEFT):
        assert _at(view, (0.1, 0.25, 0.0)) == (575.5, 383.5)


def test_depth_grows_away_from_each_camera() -> None:
    point = np.array([[0.1, 0.2, 0.0]])
    assert [float(view.project(point, 768)[2][0]) for view in VIEWS] == pytest.approx(
        [0.2, -0.1, -0.2, 0.1, 0.2]
    )


def test_the_face_picture_is_the_top_centre_third_of_the_front() -> None:
    for point in ((0.05, 0.0, 0.3), (-0.1, 0.0, 0.45)):
        column, row = _at(FRONT, point)
        face_column, face_row = _at(FACE, point)
        assert (face_column + 0.5) / 3 + 256 == pytest.approx(column + 0.5)
        assert (face_row + 0.5) / 3 == pytest.approx(row + 0.5)


def test_any_dark_channel_is_foreground() -> None:
    pixels = np.array([[[255, 255, 255], [229, 255, 255], [230, 230, 230]]], np.uint8)
    assert foreground(pixels).tolist() == [[False, True, False]]
