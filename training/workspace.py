"""The tree that grows while training runs, and the parcels it travels in.

The tree has the official layout and opens with ``open_checkpoint``; what only training needs (two
encoders) sits beside it in ``training/``. A device machine hands back few and small files, so the
whole tree also goes into ``weights.tar.N`` pieces after each component.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from deployments.checkpoints.component import Component
from deployments.checkpoints.key_tables import match_names
from deployments.checkpoints.method import METHOD_FILE
from deployments.checkpoints.prompts import CACHE_FILE
from training.networks import NetworkConfigs

PIECE = 15 << 20  # bytes; four pieces hold the small checkpoint
WEIGHTS = {
    Component.JOINT_MODEL: "diffusion_pytorch_model",
    Component.VAE: "diffusion_pytorch_model",
}


class Workspace:
    """A tree on the fast disk of the machine, and the folder whose files come back."""

    def __init__(self, tree: Path, out: Path) -> None:
        self.tree, self.out = tree, out
        tree.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)

    def save(self, component: Component, module: nn.Module, config: dict[str, Any]) -> None:
        """Write config.json and float16 weights of a component."""
        folder = self.tree / component.value
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        name = WEIGHTS.get(component, "model")
        save_half(module.state_dict(), folder / f"{name}.safetensors")

    def load(self, component: Component, module: nn.Module) -> bool:
        """Fill a module from the tree; False where the tree has no weights that fit."""
        name = WEIGHTS.get(component, "model")
        return fill(module, self.tree / component.value / f"{name}.safetensors", component)

    def config(self, component: Component) -> dict[str, Any] | None:
        """The config.json of a component that was trained before."""
        path = self.tree / component.value / "config.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def save_part(self, name: str, module: nn.Module) -> None:
        """Write something that only training needs."""
        (self.tree / "training").mkdir(exist_ok=True)
        save_half(module.state_dict(), self.tree / "training" / f"{name}.safetensors")

    def load_part(self, name: str, module: nn.Module) -> bool:
        """Fill from what ``save_part`` wrote."""
        return fill(module, self.tree / "training" / f"{name}.safetensors")

    def save_prompts(self, prompts: torch.Tensor) -> None:
        """(10, 77, D), rows as in model.md 5.3."""
        save_half({"prompt_embeddings": prompts}, self.tree / CACHE_FILE)

    def load_prompts(self) -> torch.Tensor | None:
        path = self.tree / CACHE_FILE
        return load_file(path)["prompt_embeddings"].float() if path.is_file() else None

    def save_method(self, configs: NetworkConfigs, **changes: Any) -> None:
        """Write synchuman.json: the preset's values, what the tree has already, the changes."""
        path = self.tree / METHOD_FILE
        before = json.loads(path.read_text()) if path.is_file() else vars(configs.method)
        path.write_text(json.dumps(before | changes, indent=2) + "\n")

    def pack(self) -> None:
        """Cut the tree into pieces in ``out``, each replaced at once."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.add(self.tree, arcname=".")
        data = buffer.getvalue()
        for number, start in enumerate(range(0, len(data), PIECE)):
            target = self.out / f"weights.tar.{number}"
            unfinished = target.with_name("unfinished")
            unfinished.write_bytes(data[start : start + PIECE])
            unfinished.replace(target)


def save_half(state: dict[str, torch.Tensor], path: Path) -> None:
    """Write a state dict with its floats in float16."""
    half = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in state.items()
    }
    unfinished = path.with_name("unfinished")
    save_file(half, unfinished)
    unfinished.replace(path)


def fill(module: nn.Module, path: Path, component: Component | None = None) -> bool:
    """Load float16 weights into a module of any precision; False if absent or of other shapes.

    ``component`` lets names of other versions of a library count (``key_tables``).
    """
    if not path.is_file():
        return False
    state, own = load_file(path), module.state_dict()
    if component is not None:
        sources = match_names(component, own, state).sources
        state = {name: state[source.name] for name, source in sources.items()}
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in own.items()}:
        print(f"{path} has other shapes than the recipe: starting anew", flush=True)
        return False
    module.load_state_dict(state)
    return True
