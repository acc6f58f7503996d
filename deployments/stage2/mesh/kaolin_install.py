"""What a user without kaolin is told, in the words of unified_api.md. Imports nothing of it."""

from __future__ import annotations

from importlib import metadata

REQUIRED = (
    "Stage 2 required but failed to import: ImportError\n"
    "Install kaolin: https://github.com/NVIDIAGameWorks/kaolin\n"
    "Or use --stage1-only flag or --graceful-fallback for fallback mode"
)

PLACEHOLDER = "0.1"  # the version under which PyPI holds a package that is not kaolin
PLACEHOLDER_FOUND = (
    f"kaolin {PLACEHOLDER} is PyPI's placeholder, not the library: install NVIDIA's wheel"
)


def kaolin_version() -> str | None:
    """The version of whatever is installed under that name."""
    try:
        return metadata.version("kaolin")
    except metadata.PackageNotFoundError:
        return None
