"""Checking a checkpoint tree without a GPU and without reading its tensors.

Every network is built without memory and its names and shapes are compared with the headers of the
files, so a tree of many gigabytes takes seconds. What is missing is said with the way to get it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from deployments.checkpoints.component import (
    STAGE1_COMPONENTS,
    STAGE2_COMPONENTS,
    Component,
)
from deployments.checkpoints.download import DINOV2_REPOSITORY, PULL_COMMAND
from deployments.checkpoints.loading import build_without_memory, check_against
from deployments.checkpoints.networks import build_network
from deployments.checkpoints.prompts import (
    CACHE_FILE,
    OFFICIAL_FILES,
    match_official_statistics,
    read_prompt_embeddings,
)
from deployments.checkpoints.tree import TreeCheckpoint
from deployments.checkpoints.weight_files import (
    DINOV2_OFFICIAL_FILE,
    WeightFiles,
    find_weight_files,
)
from deployments.errors import CheckpointError


class Finding(str, Enum):
    COMPLETE = "complete"
    MISSING = "missing"
    INVALID = "invalid"


@dataclass(frozen=True)
class PartReport:
    """One part of a tree. ``detail`` says what it is, or what is wrong and what to do about it."""

    name: str
    finding: Finding
    detail: str
    parameters: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Report:
    """The parts of a tree in the order in which a request uses them."""

    root: Path
    parts: tuple[PartReport, ...] = field(default_factory=tuple)

    @property
    def complete(self) -> bool:
        """True when both stages can be loaded from the tree, offline."""
        return all(part.finding is Finding.COMPLETE for part in self.parts)

    def lines(self) -> list[str]:
        """The report as text, a line a part."""
        return [f"{part.finding.value:>8}  {part.name}: {part.detail}" for part in self.parts]


def verify(root: Path, *, dinov2: Path | None = None) -> Report:
    """Check a tree. ``dinov2`` is where DINOv2 lies when it is not in the tree.

    Raises CheckpointError only when ``root`` is no checkpoint tree at all.
    """
    checkpoint = TreeCheckpoint(root, name=str(root), dinov2=dinov2)
    components = dict.fromkeys((*STAGE1_COMPONENTS, *STAGE2_COMPONENTS))
    parts = [_verify_component(checkpoint, component) for component in components]
    return Report(root, (*parts, _verify_prompts(checkpoint)))


def _verify_component(checkpoint: TreeCheckpoint, component: Component) -> PartReport:
    directory = checkpoint.directory(component)
    try:
        if not find_weight_files(directory):
            return PartReport(
                component.value, Finding.MISSING, f"no weights in {directory}; {_remedy(component)}"
            )
        config = checkpoint.config(component)
        files = WeightFiles.locate(directory)
        network = build_without_memory(lambda: build_network(component, config))
        check_against(component, network.state_dict(), files)
    except CheckpointError as error:
        return PartReport(component.value, Finding.INVALID, error.message)
    parameters = sum(tensor.numel() for tensor in network.parameters())
    kinds = ", ".join(sorted({header.dtype for header in files.headers.values()}))
    return PartReport(
        component.value,
        Finding.COMPLETE,
        f"{parameters / 1e6:,.1f} M parameters, stored as {kinds}",
        parameters,
        sum(path.stat().st_size for path in files.paths),
    )


def _verify_prompts(checkpoint: TreeCheckpoint) -> PartReport:
    name = "prompt embeddings"
    try:
        stored = read_prompt_embeddings(checkpoint.root)
    except CheckpointError as error:
        return PartReport(name, Finding.INVALID, error.message)
    if stored is not None:
        official = stored.shape[-1] == 1024 and match_official_statistics(stored)
        note = "equal to the official ones" if official else "of this checkpoint's own text encoder"
        return PartReport(name, Finding.COMPLETE, f"{list(stored.shape)}, {note}")
    encoder = _verify_component(checkpoint, Component.TEXT_ENCODER)
    if encoder.finding is Finding.COMPLETE:
        return PartReport(
            name,
            Finding.COMPLETE,
            f"not computed yet; the text encoder is there ({encoder.detail}) and will be asked "
            "once, at the first start",
        )
    return PartReport(
        name,
        encoder.finding,
        f"neither {CACHE_FILE} nor {' and '.join(OFFICIAL_FILES)} in {checkpoint.root}, and the "
        f"text encoder is no way to them: {encoder.detail}",
    )


def _remedy(component: Component) -> str:
    if component is Component.DINOV2:
        return (
            f"'{PULL_COMMAND}' fetches {DINOV2_REPOSITORY}, or put {DINOV2_OFFICIAL_FILE} into "
            f"the tree's {component.value}/ folder"
        )
    return f"'{PULL_COMMAND}' fetches it"
