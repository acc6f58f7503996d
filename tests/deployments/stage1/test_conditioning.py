from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deployments.checkpoints.checkpoint import open_checkpoint
from deployments.contracts import PreparedImage
from deployments.preprocess.pipeline import PreprocessPipeline
from deployments.stage1.conditioning import (
    Stage1Encoders,
    clip_pictures,
    normalise_for_clip,
    with_noise_level,
)

SAMPLE = Path(__file__).parents[3] / "serve_app" / "sample" / "person.png"


@pytest.fixture(scope="module")
def encoders() -> Stage1Encoders:
    return Stage1Encoders.from_checkpoint(
        open_checkpoint("random:small"), device="cpu", dtype=torch.float32
    )


@pytest.fixture(scope="module")
def prepared() -> PreparedImage:
    return PreprocessPipeline(open_checkpoint("random:small").method)(SAMPLE.read_bytes())


def test_ten_rows_show_the_front_four_times_then_the_face(
    encoders: Stage1Encoders, prepared: PreparedImage
) -> None:
    conditioning = encoders(prepared)

    assert conditioning.pictures.shape == (10, 128)
    assert conditioning.latents.shape == (10, 4, 24, 24)
    assert conditioning.prompts.shape == (10, 77, 64)
    assert conditioning.condition.shape == (1, 86, 64)
    for rows in (conditioning.pictures, conditioning.latents):
        assert all(torch.equal(rows[row], rows[0]) for row in (1, 2, 3, 5, 6, 7, 8))
        assert torch.equal(rows[9], rows[4])
        assert not torch.allclose(rows[4], rows[0])
    face = encoders.vae.encode(prepared.face[None])[0]
    torch.testing.assert_close(conditioning.latents[4], face, atol=1e-5, rtol=1e-4)


def test_the_embedding_is_that_of_the_resized_and_normalised_picture(
    encoders: Stage1Encoders, prepared: PreparedImage
) -> None:
    pixels = normalise_for_clip(torch.from_numpy(clip_pictures(prepared.front[None], 224)))
    with torch.inference_mode():
        expected = encoders.clip.model(pixels)

    torch.testing.assert_close(encoders.clip.embed(prepared.front[None]), expected)
    torch.testing.assert_close(encoders(prepared).pictures[:1, :64], expected)


def test_noise_level_zero_is_ones_then_zeros() -> None:
    rows = with_noise_level(torch.full((2, 6), 7.0))
    assert rows.tolist() == [[7.0] * 6 + [1.0] * 3 + [0.0] * 3] * 2


def test_other_noise_levels_are_the_sinusoid() -> None:
    rows = with_noise_level(torch.zeros(1, 4), level=3.0)
    angles = np.array([3.0, 3.0 * 10000**-0.5])
    expected = [0, 0, 0, 0, *np.cos(angles), *np.sin(angles)]
    assert rows[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_noise_level_has_the_type_of_the_embedding() -> None:
    assert with_noise_level(torch.zeros(1, 4, dtype=torch.float16)).dtype == torch.float16


def test_clip_sees_pillow_s_bicubic() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(clip_pictures(pixels[None], 32)[0], expected)


def test_clip_statistics() -> None:
    white = normalise_for_clip(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8))
    assert white.shape == (1, 3, 2, 2)
    assert white[0, :, 0, 0].tolist() == pytest.approx([1.9303, 2.0749, 2.1459], abs=1e-3)
