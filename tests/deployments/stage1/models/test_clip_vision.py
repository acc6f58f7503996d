"""The vision tower has the parameters, the values and the configuration of transformers' own."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from deployments.errors import CheckpointError
from deployments.stage1.models.clip_vision import ClipVision, ClipVisionConfig

SMALL = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 56,
    "patch_size": 14,
    "projection_dim": 24,
    "layer_norm_eps": 1e-4,
}


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@torch.inference_mode()
def test_vectors_are_the_library_s(activation: str) -> None:
    config = {**SMALL, "hidden_act": activation}
    torch.manual_seed(0)
    reference = CLIPVisionModelWithProjection(CLIPVisionConfig(**config)).eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    network = ClipVision(ClipVisionConfig.from_dict(config)).eval()
    network.load_state_dict(reference.state_dict())  # strict: the names are the same
    pixels = torch.randn(2, 3, 56, 56)

    expected = reference(pixel_values=pixels).image_embeds
    torch.testing.assert_close(network(pixels), expected, atol=1e-5, rtol=1e-4)


def test_what_a_file_leaves_out_is_the_library_s_default() -> None:
    config, defaults = ClipVisionConfig(), CLIPVisionConfig()
    assert {name: getattr(defaults, name) for name in vars(config)} == vars(config)


def test_another_activation_is_refused() -> None:
    with pytest.raises(CheckpointError, match="hidden_act is 'relu'") as caught:
        ClipVisionConfig.from_dict({**SMALL, "hidden_act": "relu"})
    assert caught.value.code == "checkpoint_config"
