"""A Stage 1 tree of official size with random weights, to measure loading from a disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from deployments.checkpoints.component import Component
from deployments.checkpoints.networks import build_network
from deployments.checkpoints.random import PRESETS_DIRECTORY, RandomCheckpoint

_DIFFUSERS = (Component.JOINT_MODEL, Component.VAE)
_PARTS = (
    *_DIFFUSERS,
    Component.STRUCTURE_DECODER,
    Component.IMAGE_ENCODER,
    Component.DINOV2,
)


def write_stage1_tree(root: Path, device: str) -> None:
    """Write ``random:official`` in half precision under the official file names, once."""
    if root.is_dir():
        return
    shutil.copytree(PRESETS_DIRECTORY / "official", root)
    checkpoint = RandomCheckpoint("official")
    for part in _PARTS:
        config = checkpoint.config(part)
        network = checkpoint.load(
            part,
            lambda part=part, config=config: build_network(part, config),  # type: ignore[misc]
            device=device,
            dtype=torch.float16,
        )
        state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
        stem = "diffusion_pytorch_model" if part in _DIFFUSERS else "model"
        save_file(state, root / part.value / f"{stem}.safetensors")
    prompts = {"prompt_embeddings": checkpoint.prompt_embeddings().half()}
    save_file(prompts, root / "prompt_embeddings.safetensors")
