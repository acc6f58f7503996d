"""A job's files: what is stored, under which names, and how stored results are read again.

Everything that one fence of a job writes lies in ``<job>/<fence>/``, so a runner that was believed
dead can never mix its files into another's. The layout below that folder is the ZIP's own
(architecture.md 4). Beside it, and not part of the ZIP: ``stage1.npz`` for retries and exports, and
``surface.npz`` for exports.
"""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.contracts import Asset, MultiviewResult, PreparedImage, Surface
from deployments.errors import ServiceError
from serve_app.manifest import FileFacts
from serve_app.result_files import INPUT, stage1_files, stage2_files
from serve_app.storage import Storage

STAGE1_RESULT = "stage1.npz"
STAGE2_RESULT = "surface.npz"


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

    def write_stage1(
        self, prepared: PreparedImage, multiview: MultiviewResult, *, with_input: bool = True
    ) -> str:
        """Store Stage 1's pictures and its result for later; returns the result's path.

        :param with_input: False leaves the user's own picture out.
        """
        for name, data in stage1_files(prepared, multiview).items():
            if with_input or name != INPUT:
                self.write(f"stage1/{name}", data)
        place = f"{self.path}/{STAGE1_RESULT}"
        self.storage.write(place, pack_multiview(multiview))
        return place

    def write_stage2(self, asset: Asset, *, with_surface: bool = False) -> str | None:
        """Store Stage 2's files, and its surface for exports; returns the surface's path."""
        for name, data in stage2_files(asset).items():
            self.write(f"stage2/{name}", data)
        if not with_surface or asset.surface is None:
            return None
        place = f"{self.path}/{STAGE2_RESULT}"
        self.storage.write(place, pack_surface(asset.surface))
        return place


def pack_multiview(result: MultiviewResult) -> bytes:
    """A Stage 1 result as NPZ, arrays only: reading it back never runs code."""
    facts = {
        "grid": result.grid,
        "seed": result.seed,
        "steps": result.steps,
        "timings": result.timings,
    }
    arrays = {"color": result.color, "normal": result.normal, "voxels": result.voxels}
    return _packed(arrays, facts)


def unpack_multiview(data: bytes) -> MultiviewResult:
    """The opposite of :func:`pack_multiview`.

    :raises ServiceError: ``artifact_damaged`` when the bytes are not what was stored.
    """
    with _unpacked(data, "Stage 1 result") as (arrays, facts):
        return MultiviewResult(
            color=arrays["color"], normal=arrays["normal"], voxels=arrays["voxels"], **facts
        )


def pack_surface(surface: Surface) -> bytes:
    """Stage 2's surface as NPZ, to the last bit: an export with the same options is the same."""
    arrays = {
        "vertices": surface.vertices,
        "faces": surface.faces,
        "gaussians": surface.gaussians,
    }
    return _packed(arrays, {"provenance": dict(surface.provenance)})


def unpack_surface(data: bytes) -> Surface:
    """The opposite of :func:`pack_surface`.

    :raises ServiceError: ``artifact_damaged`` when the bytes are not what was stored.
    """
    with _unpacked(data, "surface") as (arrays, facts):
        return Surface(
            vertices=arrays["vertices"],
            faces=arrays["faces"],
            gaussians=arrays["gaussians"],
            **facts,
        )


def _packed(arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    text = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
    np.savez(file, allow_pickle=False, facts=text, **arrays)
    return file.getvalue()


@contextlib.contextmanager
def _unpacked(data: bytes, what: str) -> Iterator[tuple[Mapping[str, NDArray[Any]], Any]]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            yield arrays, json.loads(arrays["facts"].tobytes())
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ServiceError(
            f"the stored {what} is damaged: {error}", code="artifact_damaged"
        ) from error
