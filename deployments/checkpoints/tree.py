"""A checkpoint in files: the official tree, the embedded one, or any other of the same layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from deployments.checkpoints.checkpoint import Checkpoint
from deployments.checkpoints.component import Component
from deployments.checkpoints.loading import ModuleT, load_strict
from deployments.checkpoints.method import MethodConfig, read_json
from deployments.checkpoints.prompts import read_or_compute_prompt_embeddings
from deployments.checkpoints.weight_files import DINOV2_OFFICIAL_FILE, WeightFiles
from deployments.errors import CheckpointError

# The architecture that the official .pth belongs to; it comes without a config.json (model.md 5.4).
OFFICIAL_DINOV2_CONFIG: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "mlp_ratio": 4,
    "image_size": 518,
    "patch_size": 14,
    "num_register_tokens": 4,
    "layer_norm_eps": 1e-6,
}


class TreeCheckpoint(Checkpoint):
    """Weights below ``root``. ``dinov2`` points elsewhere when DINOv2 is not part of the tree."""

    def __init__(self, root: Path, *, name: str, dinov2: Path | None = None) -> None:
        if not (root / "OneStage").is_dir() and not (root / "SecondStage").is_dir():
            raise CheckpointError(
                f"checkpoint '{name}': {root} holds neither OneStage/ nor SecondStage/; give the "
                "folder that contains them, or 'synchuman models pull official'",
                code="checkpoint_missing",
                path=str(root),
            )
        self.root = root
        self.name = name
        self.method = MethodConfig.from_tree(root)
        self._dinov2 = dinov2

    def directory(self, component: Component) -> Path:
        """Where the component's files are (or should be)."""
        inside = self.root / component.value
        if component is Component.DINOV2 and self._dinov2 is not None and not inside.is_dir():
            return self._dinov2
        return inside

    def config(self, component: Component) -> dict[str, Any]:
        directory = self.directory(component)
        path = directory / "config.json"
        if not path.is_file() and (directory / DINOV2_OFFICIAL_FILE).is_file():
            return dict(OFFICIAL_DINOV2_CONFIG)
        if not path.is_file():
            raise CheckpointError(
                f"checkpoint '{self.name}' has no {component.value}/config.json (looked in "
                f"{directory}); 'synchuman models verify {self.root}' says what is missing and how "
                "to get it",
                code="checkpoint_missing",
                component=component.value,
            )
        values = read_json(path)
        arguments = values.get("args")
        return arguments if isinstance(arguments, dict) else values

    def load(
        self,
        component: Component,
        build: Callable[[], ModuleT],
        *,
        device: torch.device | str,
        dtype: torch.dtype | None = None,
    ) -> ModuleT:
        files = WeightFiles.locate(self.directory(component))
        return load_strict(build, files, component, device=torch.device(device), dtype=dtype)

    def prompt_embeddings(self) -> torch.Tensor:
        return read_or_compute_prompt_embeddings(self)
