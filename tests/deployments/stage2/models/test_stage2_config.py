from __future__ import annotations

from dataclasses import replace

import pytest

from deployments.checkpoints.checkpoint import open_checkpoint
from deployments.checkpoints.component import Component
from deployments.errors import CheckpointError
from deployments.stage2.models.config import (
    GaussianDecoderConfig,
    LatentFlowConfig,
    MeshDecoderConfig,
)


def test_defaults_are_the_official_values() -> None:
    official = open_checkpoint("random:official")
    flow = official.config(Component.LATENT_FLOW)
    assert LatentFlowConfig.from_dict(flow) == LatentFlowConfig()
    gaussian = official.config(Component.GAUSSIAN_DECODER)
    assert GaussianDecoderConfig.from_dict(gaussian) == GaussianDecoderConfig()
    mesh = official.config(Component.MESH_DECODER)
    assert MeshDecoderConfig.from_dict(mesh) == MeshDecoderConfig()


def test_other_sizes_are_followed() -> None:
    small = MeshDecoderConfig.from_dict({"resolution": 32, "representation_config": {}})
    assert small == replace(MeshDecoderConfig(), resolution=32)
    plain = MeshDecoderConfig.from_dict({"representation_config": {"use_color": False}})
    assert plain.out_channels == 53


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (LatentFlowConfig, {"pe_mode": "rope"}, "pe_mode is 'rope', only 'ape' is known"),
        (LatentFlowConfig, {"depth": 3}, "unknown names depth"),
        (LatentFlowConfig, {"io_block_channels": [64, 128]}, "one level"),
        (MeshDecoderConfig, {"use_faceinfo": True}, "use_faceinfo is True"),
        (MeshDecoderConfig, {"feature_map": "nearest"}, "choose official or scaled"),
        (MeshDecoderConfig, {"representation_config": {"use_uv": 1}}, "unknown names use_uv"),
        (GaussianDecoderConfig, {"attn_mode": "full"}, "attn_mode is 'full'"),
        (
            GaussianDecoderConfig,
            {"representation_config": {"scaling_activation": "exp"}},
            "scaling_activation is 'exp'",
        ),
    ],
)
def test_networks_of_another_kind_are_refused(config, values, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CheckpointError, match=message):
        config.from_dict(values)
