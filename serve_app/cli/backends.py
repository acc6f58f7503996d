"""What this machine has, found without importing any of it."""

from __future__ import annotations

from importlib import metadata, util

from deployments.stage2.mesh.kaolin_install import (
    PLACEHOLDER,
    PLACEHOLDER_FOUND,
    REQUIRED,
    kaolin_version,
)

FIRST_GOOD_KAOLIN = (0, 18)

KAOLIN_MISSING = f"RuntimeError: {REQUIRED}"


def installed(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def kaolin_problem() -> str | None:
    """Why kaolin can not extract meshes here, as far as that shows without importing it."""
    version = kaolin_version()
    if version is None:
        return "kaolin is not installed" if util.find_spec("kaolin") is None else None
    if version == PLACEHOLDER:
        return PLACEHOLDER_FOUND
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < FIRST_GOOD_KAOLIN:
        return f"kaolin {version} is too old: 0.18 or later is needed"
    return None
