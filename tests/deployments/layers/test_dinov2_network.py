"""The network has the parameters, the values and the configuration of transformers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from deployments.errors import CheckpointError
from deployments.layers.dinov2_network import Dinov2Config, Dinov2Network

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 70,
    "patch_size": 14,
    "num_register_tokens": 2,
    "layer_norm_eps": 1e-4,
}


def library(config: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**config)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("config", [SMALL, {**SMALL, "mlp_ratio": 2, "layerscale_value": 0.5}])
@torch.inference_mode()
def test_blocks_are_the_library_s(config: dict[str, Any]) -> None:
    reference, network = library(config), Dinov2Network(Dinov2Config.from_dict(config)).eval()
    network.load_state_dict(reference.state_dict())  # strict: the names are the same
    pixels = torch.randn(2, 3, 70, 70)
    states = reference(pixels, output_hidden_states=True).hidden_states

    patches = network.embeddings.patch_embeddings(pixels)
    torch.testing.assert_close(patches, reference.embeddings.patch_embeddings(pixels))
    for index, block in enumerate(network.blocks):
        torch.testing.assert_close(block(states[index]), states[index + 1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(network.layernorm(states[-1]), reference.layernorm(states[-1]))


def test_what_a_file_leaves_out_is_the_library_s_default() -> None:
    config, defaults = Dinov2Config(), Dinov2WithRegistersConfig()
    assert {name: getattr(defaults, name) for name in vars(config)} == vars(config)


@pytest.mark.parametrize(
    "field", [("hidden_act", "relu"), ("use_swiglu_ffn", True), ("qkv_bias", False)]
)
def test_other_networks_are_refused(field: tuple[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=f"{field[0]} is {field[1]!r}") as caught:
        Dinov2Config.from_dict({**SMALL, field[0]: field[1]})
    assert caught.value.code == "checkpoint_config"
