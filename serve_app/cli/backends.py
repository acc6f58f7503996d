"""What this machine has, found without importing any of it."""

from __future__ import annotations

from importlib import metadata, util

PLACEHOLDER = "0.1"  # the version under which PyPI holds a package that is not kaolin
FIRST_GOOD_KAOLIN = (0, 18)

KAOLIN_MISSING = """RuntimeError: Stage 2 required but failed to import: ImportError
Install kaolin: https://github.com/NVIDIAGameWorks/kaolin
Or use --stage1-only flag or --graceful-fallback for fallback mode"""


def installed(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def kaolin_problem() -> str | None:
    """Why kaolin can not extract meshes here, as far as that shows without importing it."""
    version = installed("kaolin")
    if version is None:
        return "kaolin is not installed" if util.find_spec("kaolin") is None else None
    if version == PLACEHOLDER:
        return "kaolin 0.1 is PyPI's placeholder and not the library"
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < FIRST_GOOD_KAOLIN:
        return f"kaolin {version} is too old: 0.18 or later is needed"
    return None
