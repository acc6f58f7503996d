from __future__ import annotations

import json

import pytest
import torch

from deployments.checkpoints.component import Component
from deployments.checkpoints.loading import build_without_memory
from deployments.checkpoints.networks import build_network
from deployments.checkpoints.random import PRESETS_DIRECTORY, RandomCheckpoint

NETWORKS = [component for component in Component if component is not Component.TEXT_ENCODER]
SHIPPED_BYTES = 60e6  # in half precision; what the package may carry


def load(component: Component, **keywords: object) -> torch.nn.Module:
    checkpoint = RandomCheckpoint("small", **keywords)  # type: ignore[arg-type]
    config = checkpoint.config(component)
    return checkpoint.load(component, lambda: build_network(component, config), device="cpu")


@pytest.mark.parametrize("preset", ["official", "small"])
def test_presets_describe_every_network(preset: str) -> None:
    checkpoint = RandomCheckpoint(preset)
    for component in NETWORKS:
        config = checkpoint.config(component)
        assert list(
            build_without_memory(lambda c=component, k=config: build_network(c, k)).state_dict()
        )


def test_the_official_preset_has_the_official_sizes() -> None:
    """Parameter counts of model.md section 1."""
    counts = {
        Component.STRUCTURE_DECODER: 73_671_201,
        Component.VAE: 83_653_863,
        Component.IMAGE_ENCODER: 632_076_800,
        Component.DINOV2: 304_372_736,
        Component.JOINT_MODEL: 1_699_469_580,
        Component.LATENT_FLOW: 600_432_520,
        Component.GAUSSIAN_DECODER: 452_418_752,
        Component.MESH_DECODER: 457_976_421,
    }
    checkpoint = RandomCheckpoint("official")
    for component, count in counts.items():
        config = checkpoint.config(component)
        network = build_without_memory(lambda c=component, k=config: build_network(c, k))
        assert sum(p.numel() for p in network.parameters()) == count, component


def test_the_small_preset_fits_in_the_package() -> None:
    checkpoint = RandomCheckpoint("small")
    total = 0
    for component in NETWORKS:
        config = checkpoint.config(component)
        network = build_without_memory(lambda c=component, k=config: build_network(c, k))
        total += sum(tensor.numel() for tensor in network.state_dict().values())
    assert 2 * total < SHIPPED_BYTES


def test_sizes_of_the_presets_agree_with_each_other() -> None:
    for preset in ("official", "small"):
        checkpoint = RandomCheckpoint(preset)
        joint = checkpoint.config(Component.JOINT_MODEL)
        vae = checkpoint.config(Component.VAE)
        dinov2 = checkpoint.config(Component.DINOV2)
        clip = checkpoint.config(Component.IMAGE_ENCODER)
        method = checkpoint.method
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        assert joint["sample_size"] == method.picture_size // factor
        assert joint["projection_class_embeddings_input_dim"] == 2 * clip["projection_dim"]
        assert joint["cond_channels"] == dinov2["hidden_size"]
        assert dinov2["image_size"] == method.condition_size
        assert method.feature_size // dinov2["patch_size"] == method.voxel_grid
        assert max(method.feature_layers) < dinov2["num_hidden_layers"]
        for component in (Component.LATENT_FLOW, Component.MESH_DECODER):
            assert checkpoint.config(component)["resolution"] == method.voxel_grid


def test_values_are_seeded() -> None:
    first, second = load(Component.DINOV2), load(Component.DINOV2)
    other = load(Component.DINOV2, seed=1)

    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    changed = [
        name
        for name, tensor in first.state_dict().items()
        if not torch.equal(tensor, other.state_dict()[name])
    ]
    assert "encoder.layer.0.mlp.fc1.weight" in changed


def test_values_keep_signals_in_half_precision_range() -> None:
    for component in NETWORKS:
        for name, tensor in load(component).state_dict().items():
            assert torch.isfinite(tensor).all(), name
            assert tensor.abs().max() < 100, name


def test_computed_tables_are_computed() -> None:
    tables = dict(load(Component.JOINT_MODEL).named_buffers())
    assert tables["pos_emb"].abs().max() <= 1
    assert tables["pos_emb"][0, 0] == 0  # sine of voxel index 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gaussian_latents_occupy_a_body_like_share(seed: int) -> None:
    decoder = load(Component.STRUCTURE_DECODER, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        logits = decoder(torch.randn(1, 8, 8, 8, 8, generator=generator))

    assert 0.008 < (logits > 0).float().mean() < 0.03


def test_prompts_have_the_width_of_the_joint_model() -> None:
    path = PRESETS_DIRECTORY / "small" / Component.JOINT_MODEL.value / "config.json"
    width = json.loads(path.read_text())["cross_attention_dim"]
    assert RandomCheckpoint("small").prompt_embeddings().shape == (10, 77, width)
