"""The one way to weights: a checkpoint gives configurations, loaded networks and prompts.

Networks never know which kind they come from. ``open_checkpoint`` takes the names of the command
line and of the settings:

* ``embedded``: the small trained checkpoint that ships with this package;
* ``official``: the published weights, pulled before with ``synchuman models pull official``
  (``official@REVISION`` for a pinned one);
* a path: any tree in the official layout;
* ``random:official``, ``random:small``: right shapes, seeded values, no files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from deployments.checkpoints.component import Component
from deployments.checkpoints.loading import ModuleT
from deployments.checkpoints.method import MethodConfig
from deployments.errors import CheckpointError

EMBEDDED_DIRECTORY = Path(__file__).parent / "embedded"


class Checkpoint(ABC):
    """Weights of the whole method, whatever their origin."""

    name: str
    method: MethodConfig

    @abstractmethod
    def config(self, component: Component) -> dict[str, Any]:
        """The component's ``config.json``; where constructor arguments sit in ``args``, those."""

    @abstractmethod
    def load(
        self,
        component: Component,
        build: Callable[[], ModuleT],
        *,
        device: torch.device | str,
        dtype: torch.dtype | None = None,
    ) -> ModuleT:
        """Build a network and fill it on ``device``.

        ``dtype`` None keeps the type that each tensor has in the built module, so that a module of
        mixed precision stays one. The result is in eval mode and without gradients. Raises
        CheckpointError when module and weights differ in any name or shape.
        """

    @abstractmethod
    def prompt_embeddings(self) -> torch.Tensor:
        """(10, 77, D) on the CPU: five normal rows, then five colour rows (model.md 5.3)."""


def open_checkpoint(name: str) -> Checkpoint:
    """Open a checkpoint by name or path; reads configuration only, never fetches anything."""
    from deployments.checkpoints.download import DEFAULT_REVISION, find_official
    from deployments.checkpoints.random import RandomCheckpoint
    from deployments.checkpoints.tree import TreeCheckpoint

    kind, _, preset = name.partition(":")
    if kind == "random" and preset:
        return RandomCheckpoint(preset)
    if name == "embedded":
        return TreeCheckpoint(EMBEDDED_DIRECTORY, name=name)
    if name == "official" or name.startswith("official@"):
        found = find_official(revision=name.partition("@")[2] or DEFAULT_REVISION)
        return TreeCheckpoint(found.root, name=name, dinov2=found.dinov2)
    path = Path(name).expanduser()
    if not path.is_dir():
        raise CheckpointError(
            f"checkpoint '{name}' is neither a directory nor one of embedded, official, "
            "random:official, random:small",
            code="checkpoint_unknown",
            checkpoint=name,
        )
    return TreeCheckpoint(path, name=str(path))
