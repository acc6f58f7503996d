"""Where the cases and manifests of this run come from."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
OWN_KIT = HERE / "cases"
SHARED_KIT = HERE.parents[2] / "shared" / "parity"


def kit_folder(config: pytest.Config) -> Path:
    """The folder given with ``--kit``, else the shared kit beside the repository, else our copy."""
    chosen: Path | None = config.getoption("--kit", default=None)
    if chosen is not None:
        return chosen
    return SHARED_KIT if SHARED_KIT.is_dir() else OWN_KIT


def manifest_file(config: pytest.Config, component: str) -> Path:
    """The list of official names and shapes of a component, from the kit or from our own copy."""
    name = f"manifest_{component.rsplit('/', 1)[-1]}.json"
    in_kit = kit_folder(config) / name
    return in_kit if in_kit.exists() else OWN_KIT / name
