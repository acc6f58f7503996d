import numpy as np
import pytest
import torch
from scipy import ndimage

from deployments.stage2.texture.registration import best_shifts, register


def _blob(shift: tuple[float, float], size: int = 768) -> np.ndarray:
    row, column = np.mgrid[:size, :size] - size / 2
    column, row = column - shift[0], row - shift[1]
    body = (column / 80) ** 2 + (row / 300) ** 2 < 1
    arm = (np.abs(column - 100) < 90) & (np.abs(row + 100) < 20)
    return body | arm


def best_shift(silhouette: np.ndarray, picture: np.ndarray) -> np.ndarray:
    both = (torch.from_numpy(mask.copy())[None] for mask in (silhouette, picture))
    return best_shifts(*both)[0]


@pytest.mark.parametrize("shift", [(2.0, 0.0), (-3.0, 1.0), (0.5, -5.0), (4.4, 4.4)])
def test_shifts_are_found_to_a_fraction_of_a_pixel(shift: tuple[float, float]) -> None:
    assert best_shift(_blob((0, 0)), _blob(shift)) == pytest.approx(shift, abs=0.2)


def test_small_pictures_search_proportionally_less() -> None:
    assert best_shift(_blob((0, 0), 768)[::4, ::4], _blob((4, 0), 768)[::4, ::4]) == pytest.approx(
        (1.0, 0.0), abs=0.1
    )


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.1, 0.0), (9.0, 0.0)])
def test_tiny_and_implausible_shifts_are_left_alone(shift: tuple[float, float]) -> None:
    assert best_shift(_blob((0, 0)), _blob(shift)).tolist() == [0.0, 0.0]


def test_an_empty_picture_moves_nothing() -> None:
    blob = _blob((0, 0))
    assert best_shift(blob, np.zeros_like(blob)).tolist() == [0.0, 0.0]


def test_the_face_moves_with_the_front_three_times_as_far() -> None:
    mesh = [_blob((0, 0))] * 4
    pictures = [_blob((2, 1)), *mesh[1:]]
    shifts = register(*(torch.from_numpy(np.stack(masks)) for masks in (mesh, pictures)))
    assert shifts[4] == pytest.approx(3 * shifts[0])
    assert shifts[1:4].tolist() == [[0.0, 0.0]] * 3


def test_a_local_difference_does_not_drag_the_picture() -> None:
    picture = ndimage.binary_dilation(_blob((0, 0)), iterations=3)
    assert np.abs(best_shift(_blob((0, 0)), picture)).max() < 0.5
