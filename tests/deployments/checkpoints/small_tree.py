"""A whole checkpoint tree in the official layout, small, with real networks and seeded values."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from deployments.checkpoints.component import Component
from deployments.checkpoints.networks import build_network
from deployments.checkpoints.prompts import TextEncoder
from deployments.checkpoints.random import PRESETS_DIRECTORY, RandomCheckpoint

TEXT_CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
}
DIFFUSERS_PARTS = (Component.JOINT_MODEL, Component.VAE)


def write_tree(root: Path) -> Path:
    """Write the small preset with half-precision weights under the official file names."""
    shutil.copytree(PRESETS_DIRECTORY / "small", root)
    checkpoint = RandomCheckpoint("small")
    for component in Component:
        if component is Component.TEXT_ENCODER:
            continue
        config = checkpoint.config(component)
        network = checkpoint.load(
            component, lambda c=component, k=config: build_network(c, k), device="cpu"
        )
        write_weights(root, component, network.half().state_dict())
    write_text_encoder(root)
    return root


def write_text_encoder(root: Path) -> None:
    torch.manual_seed(5)
    folder = root / Component.TEXT_ENCODER.value
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(TEXT_CONFIG))
    state = {
        f"text_model.{name.removeprefix('text_model.').removeprefix('text_model.')}": tensor
        for name, tensor in TextEncoder(TEXT_CONFIG).state_dict().items()
    }
    write_weights(root, Component.TEXT_ENCODER, state)


def write_weights(root: Path, component: Component, state: dict[str, torch.Tensor]) -> Path:
    stem = "diffusion_pytorch_model" if component in DIFFUSERS_PARTS else "model"
    path = root / component.value / f"{stem}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path
