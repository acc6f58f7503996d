"""``manifest.json``: where a result comes from, so that it can be made again.

Written once, into the attempt's folder, by whoever ran the stages; the ZIP carries it unchanged.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from deployments.contracts import GenerationOptions
from serve_app.options import options_as_json

NAME = "manifest.json"
LIBRARIES = ("synchuman-serve", "ray", "torch", "transformers", "numpy", "pillow")


@dataclass(frozen=True)
class FileFacts:
    """One file of a result."""

    size: int  # bytes
    sha256: str  # hexadecimal


def build_manifest(
    *,
    job_id: str,
    checkpoint: str,
    options: GenerationOptions,
    stages: Mapping[str, Mapping[str, Any]],
    files: Mapping[str, FileFacts],
    input_sha256: str,
    backends: Mapping[str, str] | None = None,
    warnings: Sequence[str] = (),
    parent_id: str | None = None,
) -> bytes:
    """The manifest as UTF-8 JSON.

    :param stages: by stage name: ``status``, ``reason``, ``timings`` (seconds by part),
        ``statistics`` and whatever else the stage reports.
    :param files: by name inside the ZIP, the manifest itself left out.
    :param input_sha256: of the picture as it was sent; the picture itself is not in the result.
    :param parent_id: of an export: the job whose stored result it is made from.
    """
    document = {
        "format": 1,
        "job_id": job_id,
        **({} if parent_id is None else {"parent_id": parent_id}),
        "versions": versions(),
        "checkpoint": checkpoint,
        "backends": dict(backends or {}),
        "options": options_as_json(options),
        "seed": options.seed,
        "input_sha256": input_sha256,
        "stages": {name: dict(report) for name, report in stages.items()},
        "warnings": list(warnings),
        "files": {
            name: {"bytes": facts.size, "sha256": facts.sha256}
            for name, facts in sorted(files.items())
        },
    }
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that shape a result, without importing them."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue  # a checkout that was not installed has no version of itself
    return found
