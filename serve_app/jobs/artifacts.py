"""A job's files: what is stored, under which names, and how a stored Stage 1 result is read again.

Everything that one fence of a job writes lies in ``<job>/<fence>/``, so a runner that was believed
dead can never mix its files into another's. The layout below that folder is the ZIP's own
(architecture.md 4); ``stage1.npz`` beside it is for retries and not part of the ZIP.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deployments.contracts import Asset, MultiviewResult, PreparedImage
from deployments.errors import ServiceError
from serve_app.manifest import FileFacts
from serve_app.result_files import stage1_files, stage2_files
from serve_app.storage import Storage

STAGE1_RESULT = "stage1.npz"


@dataclass
class ArtifactFolder:
    """The folder of one fence of a job, and what has been written into it. Writing blocks."""

    storage: Storage
    job: str
    fence: int
    facts: dict[str, FileFacts] = field(default_factory=dict)  # by name inside the ZIP

    @property
    def path(self) -> str:
        return f"{self.job}/{self.fence}"

    @property
    def files(self) -> dict[str, str]:
        """Name inside the ZIP -> storage path."""
        return {name: f"{self.path}/{name}" for name in self.facts}

    def names(self, stage: str) -> tuple[str, ...]:
        """Names of a stage's files, without its folder."""
        begin = f"{stage}/"
        return tuple(n.removeprefix(begin) for n in sorted(self.facts) if n.startswith(begin))

    def write(self, name: str, data: bytes) -> None:
        digest = self.storage.write(f"{self.path}/{name}", data)
        self.facts[name] = FileFacts(size=len(data), sha256=digest)

    def write_stage1(self, prepared: PreparedImage, multiview: MultiviewResult) -> str:
        """Store Stage 1's pictures and its result for retries; returns the result's path."""
        for name, data in stage1_files(prepared, multiview).items():
            self.write(f"stage1/{name}", data)
        place = f"{self.path}/{STAGE1_RESULT}"
        self.storage.write(place, pack_multiview(multiview))
        return place

    def write_stage2(self, asset: Asset) -> None:
        for name, data in stage2_files(asset).items():
            self.write(f"stage2/{name}", data)


def pack_multiview(result: MultiviewResult) -> bytes:
    """A Stage 1 result as NPZ, arrays only: reading it back never runs code."""
    facts = {
        "grid": result.grid,
        "seed": result.seed,
        "steps": result.steps,
        "timings": result.timings,
    }
    file = io.BytesIO()
    np.savez(
        file,
        color=result.color,
        normal=result.normal,
        voxels=result.voxels,
        facts=np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8),
    )
    return file.getvalue()


def unpack_multiview(data: bytes) -> MultiviewResult:
    """The opposite of :func:`pack_multiview`.

    :raises ServiceError: ``storage_unavailable`` when the bytes are not what was stored.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            facts: dict[str, Any] = json.loads(arrays["facts"].tobytes())
            return MultiviewResult(
                color=arrays["color"], normal=arrays["normal"], voxels=arrays["voxels"], **facts
            )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ServiceError(
            f"the stored Stage 1 result is damaged: {error}", code="storage_unavailable"
        ) from error
