from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from deployments.preprocess.framing import (
    SOLID_ALPHA,
    AlphaBox,
    alpha_box,
    condition_picture,
    frame_face,
    frame_subject,
    on_white,
    quantise,
)


def picture(width: int, height: int, box: tuple[int, int, int, int], alpha: int = 255) -> Image:
    """A transparent picture with one filled box (exclusive ends)."""
    image = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    image.paste((200, 100, 50, alpha), box)
    return image


def test_box_is_inclusive_and_respects_the_threshold() -> None:
    image = picture(100, 90, (10, 20, 40, 80), alpha=SOLID_ALPHA)
    image.paste((1, 1, 1, SOLID_ALPHA + 1), (12, 30, 13, 31))

    assert alpha_box(image, 0) == (10, 20, 39, 79)
    assert alpha_box(image, SOLID_ALPHA) == (12, 30, 12, 30)
    assert alpha_box(image, 255) is None


def test_longest_counts_last_minus_first() -> None:
    assert AlphaBox(10, 20, 39, 79).longest == 59
    assert AlphaBox(10, 20, 39, 79).shortest == 29


@pytest.mark.parametrize(
    ("height", "filled"),
    [(96, 192), (47, 191), (94, 191)],  # 192/47 and 192/94 fall just short in binary
)
def test_the_longer_side_fills_the_canvas_up_to_float_rounding(height: int, filled: int) -> None:
    scale = 192 / height
    expected = int(scale * height)
    image = picture(200, 200, (50, 50, 50 + height // 2 + 1, 50 + height + 1))
    box = alpha_box(image, 0)
    assert box is not None

    canvas = frame_subject(image, box, 192)
    rows = np.flatnonzero((np.asarray(canvas)[..., 3] > 0).any(axis=1))

    assert len(rows) == expected
    assert expected in (filled, 192)
    assert rows[0] == (192 - expected) // 2


def test_rounding_loses_a_row_for_the_sizes_that_model_md_names() -> None:
    """Section 4: about 5 % of sizes, 47, 94 and 147 among them."""
    short = [size for size in range(1, 1000) if int(768 / size * size) == 767]
    assert {47, 94, 147} <= set(short)


def test_the_last_row_and_column_are_cut_off() -> None:
    image = picture(100, 100, (10, 10, 60, 60))
    image.paste((0, 255, 0, 255), (59, 10, 60, 60))  # last column
    image.paste((0, 255, 0, 255), (10, 59, 60, 60))  # last row
    box = alpha_box(image, 0)
    assert box is not None

    canvas = np.asarray(frame_subject(image, box, 49))

    assert (canvas[..., :3] == (200, 100, 50)).all()


def test_face_is_the_top_centre_third() -> None:
    canvas = Image.new("RGBA", (96, 96), (0, 0, 0, 255))
    canvas.paste((250, 10, 20, 255), (32, 0, 64, 32))

    face = np.asarray(frame_face(canvas))

    assert face.shape == (96, 96, 4)
    assert (face == (250, 10, 20, 255)).all()


def test_white_shows_through_by_alpha() -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 51, 102, 51))

    blended = on_white(image)

    assert blended.dtype == np.float32
    assert blended[0, 0].tolist() == [1, 1, 1]
    assert blended[0, 1] == pytest.approx([0.8, 0.84, 0.88], abs=1e-6)


def test_quantise_truncates() -> None:
    assert quantise(np.float32([[0.999, 0.5, 1.0]])).tolist() == [[254, 127, 255]]


def test_condition_has_margin_and_black_background() -> None:
    image = picture(100, 300, (20, 50, 81, 251))
    box = alpha_box(image, SOLID_ALPHA)
    assert box is not None

    condition = condition_picture(image, box, 120)

    # 200 px of subject in a square of 240: 100 of 120 rows.
    rows = np.flatnonzero(condition[:, 60, 0] > 100)  # the filter rings faintly beyond the edge
    assert condition.shape == (120, 120, 3)
    assert (rows[0], rows[-1]) == (10, 109)
    assert condition[:, :30].max() < 20


def test_condition_may_reach_beyond_the_picture() -> None:
    image = picture(60, 200, (0, 0, 60, 200))
    condition = condition_picture(image, AlphaBox(0, 0, 59, 199), 100)

    assert not condition[:5].any()
    assert condition[50, 50].tolist() == [200, 100, 50]
