"""Fetching the official weights from the hub, once and on request; everything else is offline.

``pull`` is the only function of this project that opens a connection for weights. Files that are
there already are not fetched again, an interrupted download goes on where it stopped, ``HF_HOME``
says where the hub's cache is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deployments.checkpoints.component import Component
from deployments.checkpoints.weight_files import DINOV2_OFFICIAL_FILE
from deployments.errors import CheckpointError

OFFICIAL_REPOSITORY = "xishushu/SyncHuman"
DINOV2_REPOSITORY = "facebook/dinov2-with-registers-large"
# A branch moves: name a commit in the settings to pin what is fetched.
DEFAULT_REVISION = "main"

_OFFICIAL_FILES = ["OneStage/**", "SecondStage/**"]
_DINOV2_FILES = ["config.json", "model.safetensors"]
PULL_COMMAND = "synchuman models pull official"

# huggingface_hub.snapshot_download, or something with its keywords.
Snapshot = Callable[..., str]


@dataclass(frozen=True)
class PulledCheckpoint:
    """Where a pulled checkpoint lies. ``dinov2`` is None when the tree itself holds DINOv2."""

    root: Path
    dinov2: Path | None


def pull(
    name: str = "official",
    *,
    directory: Path | None = None,
    revision: str = DEFAULT_REVISION,
    dinov2_revision: str = DEFAULT_REVISION,
    snapshot: Snapshot | None = None,
) -> PulledCheckpoint:
    """Fetch a published checkpoint: into ``directory``, or into the hub's cache when that is None.

    ``revision`` is a branch, tag or commit of the repository. DINOv2 is fetched too unless
    ``directory`` already holds its own ``.pth`` file. At the end the prompt embeddings are
    computed. Raises CheckpointError when the hub can not be reached or refuses.
    """
    if name != "official":
        raise CheckpointError(
            f"'{name}' can not be pulled; the one published checkpoint is 'official'",
            code="checkpoint_unknown",
            checkpoint=name,
        )
    fetch = snapshot or _hub_snapshot()
    root = _fetch(fetch, OFFICIAL_REPOSITORY, revision, _OFFICIAL_FILES, directory)
    inside = root / Component.DINOV2.value
    dinov2 = None
    if not (inside / DINOV2_OFFICIAL_FILE).is_file():
        dinov2 = _fetch(
            fetch, DINOV2_REPOSITORY, dinov2_revision, _DINOV2_FILES, inside if directory else None
        )
    pulled = PulledCheckpoint(root, None if directory else dinov2)
    _keep_prompts(pulled)
    return pulled


def find_official(
    *,
    revision: str = DEFAULT_REVISION,
    dinov2_revision: str = DEFAULT_REVISION,
    snapshot: Snapshot | None = None,
) -> PulledCheckpoint:
    """Locate the official checkpoint in the hub's cache without a connection.

    Raises CheckpointError, with the command that fetches it, when it was never pulled.
    """
    lookup = snapshot or _hub_snapshot()
    found = [
        _cached(lookup, OFFICIAL_REPOSITORY, revision, _OFFICIAL_FILES),
        _cached(lookup, DINOV2_REPOSITORY, dinov2_revision, _DINOV2_FILES),
    ]
    root, dinov2 = found
    if root is None:
        raise CheckpointError(
            f"the official checkpoint ({OFFICIAL_REPOSITORY}, revision {revision}) is not on this "
            f"machine; run '{PULL_COMMAND}' once, or give the path of a local copy as checkpoint",
            code="checkpoint_missing",
            checkpoint="official",
        )
    return PulledCheckpoint(root, dinov2)


def _hub_snapshot() -> Snapshot:
    from huggingface_hub import snapshot_download

    return snapshot_download


def _fetch(
    snapshot: Snapshot, repository: str, revision: str, files: list[str], directory: Path | None
) -> Path:
    try:
        found = snapshot(repository, revision=revision, allow_patterns=files, local_dir=directory)
    except Exception as error:  # the hub client raises many kinds, all mean: not fetched
        raise CheckpointError(
            f"{repository} at revision '{revision}' could not be fetched: {error}. What arrived "
            f"is kept; run '{PULL_COMMAND}' again to go on",
            code="checkpoint_download",
            repository=repository,
            revision=revision,
        ) from error
    return Path(found)


def _keep_prompts(pulled: PulledCheckpoint) -> None:
    """Compute the prompt embeddings now, so that serving never needs the text encoder."""
    from deployments.checkpoints.tree import TreeCheckpoint

    checkpoint = TreeCheckpoint(pulled.root, name="official", dinov2=pulled.dinov2)
    if (checkpoint.directory(Component.TEXT_ENCODER) / "config.json").is_file():
        checkpoint.prompt_embeddings()


def _cached(snapshot: Snapshot, repository: str, revision: str, files: list[str]) -> Path | None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(
            snapshot(repository, revision=revision, allow_patterns=files, local_files_only=True)
        )
    except LocalEntryNotFoundError:
        return None
