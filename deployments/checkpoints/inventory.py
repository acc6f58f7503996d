"""The checkpoints that this machine can open by name, for ``models list``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deployments.checkpoints.checkpoint import EMBEDDED_DIRECTORY
from deployments.checkpoints.download import (
    DEFAULT_REVISION,
    PULL_COMMAND,
    Snapshot,
    find_official,
)
from deployments.checkpoints.random import PRESETS_DIRECTORY
from deployments.errors import CheckpointError


@dataclass(frozen=True)
class Listing:
    """A checkpoint by name. ``path`` is None for one without files, or when it is not here."""

    name: str
    available: bool
    description: str
    path: Path | None = None
    bytes: int = 0


def list_checkpoints(
    *, revision: str = DEFAULT_REVISION, snapshot: Snapshot | None = None
) -> list[Listing]:
    """All names that ``open_checkpoint`` knows, with what is on this machine."""
    return [_embedded(), _official(revision, snapshot), *_random()]


def _embedded() -> Listing:
    here = (EMBEDDED_DIRECTORY / "OneStage").is_dir()
    return Listing(
        "embedded",
        here,
        "small, trained on synthetic people, ships with this package",
        EMBEDDED_DIRECTORY if here else None,
        _size(EMBEDDED_DIRECTORY) if here else 0,
    )


def _official(revision: str, snapshot: Snapshot | None) -> Listing:
    try:
        found = find_official(revision=revision, snapshot=snapshot)
    except CheckpointError:
        return Listing("official", False, f"the published weights; '{PULL_COMMAND}' fetches them")
    size = _size(found.root) + (_size(found.dinov2) if found.dinov2 else 0)
    return Listing("official", True, "the published weights", found.root, size)


def _random() -> list[Listing]:
    presets = sorted(path.name for path in PRESETS_DIRECTORY.iterdir() if path.is_dir())
    return [
        Listing(f"random:{preset}", True, f"seeded values in the shapes of '{preset}'")
        for preset in presets
    ]


def _size(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
