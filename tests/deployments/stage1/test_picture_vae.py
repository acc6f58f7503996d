from __future__ import annotations

import numpy as np
import pytest
import torch

from deployments.checkpoints.checkpoint import open_checkpoint
from deployments.checkpoints.component import Component
from deployments.stage1.picture_vae import PictureVae, build_vae


def vae(rows_at_once: int = 2) -> PictureVae:
    return PictureVae.from_checkpoint(
        open_checkpoint("random:small"),
        device="cpu",
        dtype=torch.float32,
        rows_at_once=rows_at_once,
    )


@pytest.fixture(scope="module")
def pictures() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)


@torch.inference_mode()
def test_encode_is_the_scaled_mode_of_the_posterior(
    pictures: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
) -> None:
    encoder = vae()
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    moments = encoder.model.quant_conv(encoder.model.encoder(pixels))

    latents = encoder.encode(pictures)

    assert latents.shape == (3, 4, 12, 12)
    torch.testing.assert_close(latents, 0.18215 * moments[:, :4], atol=1e-5, rtol=1e-4)


def test_rows_do_not_depend_on_how_many_run_at_once(
    pictures: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
) -> None:
    one, many = vae(1), vae(8)
    torch.testing.assert_close(one.encode(pictures), many.encode(pictures), atol=1e-5, rtol=1e-4)
    latents = torch.randn(3, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(one.decode(latents), many.decode(latents), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_decode_gives_pictures_in_range() -> None:
    decoder = vae()
    latents = 0.18215 * torch.randn(2, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    raw = decoder.model.decoder(decoder.model.post_quant_conv(latents / 0.18215))

    decoded = decoder.decode(latents)

    assert decoded.shape == (2, 3, 96, 96)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, (raw / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=1e-4)


def test_fields_of_any_diffusers_version_are_left_out() -> None:
    config = open_checkpoint("random:small").config(Component.VAE)
    model = build_vae({**config, "_diffusers_version": "9.9", "field_of_tomorrow": 3})
    assert model.config.scaling_factor == 0.18215
