"""The autoencoder has the parameters, the values and the configuration of diffusers' own."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from deployments.errors import CheckpointError
from deployments.stage1.models.picture_autoencoder import AutoencoderConfig, PictureAutoencoder

SMALL = {
    "block_out_channels": [16, 32, 32, 48],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "latent_channels": 4,
}


@torch.inference_mode()
def test_both_halves_are_the_library_s() -> None:
    torch.manual_seed(0)
    reference = AutoencoderKL(**SMALL).eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    network = PictureAutoencoder(AutoencoderConfig.from_dict(SMALL)).eval()
    network.load_state_dict(reference.state_dict())  # strict: the names are the same
    pictures, latents = torch.randn(2, 3, 48, 64), torch.randn(2, 4, 6, 8)

    expected = reference.encode(pictures).latent_dist
    mean, log_variance = network.moments(pictures)
    torch.testing.assert_close(mean, expected.mode(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(log_variance.clamp(-30, 20), expected.logvar, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network.encode(pictures), mean)
    decoded = reference.decode(latents).sample
    torch.testing.assert_close(network.decode(latents), decoded, atol=1e-4, rtol=1e-4)


def test_what_a_file_leaves_out_is_the_library_s_default() -> None:
    defaults = inspect.signature(AutoencoderKL.__init__).parameters
    config = AutoencoderConfig()
    assert {name: defaults[name].default for name in vars(config)} == vars(config)


@pytest.mark.parametrize(
    "field",
    [
        ("act_fn", "relu"),
        ("shift_factor", 0.1),
        ("use_quant_conv", False),
        ("down_block_types", ["DownEncoderBlock2D"] * 3 + ["AttnDownEncoderBlock2D"]),
    ],
)
def test_other_networks_are_refused(field: tuple[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=f"{field[0]} is ") as caught:
        AutoencoderConfig.from_dict({**SMALL, field[0]: field[1]})
    assert caught.value.code == "checkpoint_config"
