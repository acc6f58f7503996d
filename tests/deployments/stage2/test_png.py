from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from deployments.stage2.png import STRIP, encode_png

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (STRIP + 1, 300, 3), np.uint8)
RAMP = np.stack(np.broadcast_arrays(*np.ogrid[0 : 3 * STRIP, 0:200], 7), axis=2).astype(np.uint8)


@pytest.mark.parametrize("picture", [NOISE, RAMP, RAMP[:1, :1], RAMP[: 2 * STRIP, ::-1]])
def test_nothing_is_lost(picture: np.ndarray) -> None:
    image = Image.open(io.BytesIO(encode_png(picture)))
    image.verify()  # checks of all chunks
    read = Image.open(io.BytesIO(encode_png(picture)))
    assert read.mode == "RGB"
    assert np.array_equal(np.asarray(read), picture)


def test_strips_know_what_came_before_them() -> None:
    """Strips of one pattern, too far apart for a filter: only a dictionary makes them short."""
    tile = RNG.integers(0, 256, (STRIP, 40, 3), np.uint8)
    once, often = len(encode_png(tile)), len(encode_png(np.tile(tile, (6, 1, 1))))
    assert often < 1.5 * once


def test_smooth_pictures_are_as_small_as_pillow_makes_them() -> None:
    row, column = np.mgrid[0:512, 0:512] / 40
    waves = 127 + 60 * np.sin(row) + 60 * np.cos(column + row)
    picture = np.stack((waves, 255 - waves, waves / 2), axis=2).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", compress_level=4)
    assert len(encode_png(picture)) < 1.1 * len(stream.getvalue())
