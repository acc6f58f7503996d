"""What passes between the stages: frozen values with numpy arrays inside, nothing else.

    bytes or URL -> PreparedImage -> MultiviewResult -> Asset
                     Preprocess       Stage 1          Stage 2

H is the checkpoint's picture size (768 in the official checkpoint), C its condition size (518).
Frames, axes and the mirrored storage of views 2 and 3 follow model.md section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]

VIEWS = ("front", "right", "back", "left", "face")


class Mode(str, Enum):
    """How much of the method a request runs, and what happens when Stage 2 can not run."""

    OFFICIAL = "official"
    STAGE1_ONLY = "stage1-only"
    GRACEFUL_FALLBACK = "graceful-fallback"


class TextureFormat(str, Enum):
    """How the base colour texture is stored inside the GLB."""

    PNG = "png"
    WEBP = "webp"


class OutputFormat(str, Enum):
    """Files that Stage 2 can write beside the GLB and the PLY mesh, which it always writes."""

    SPLATS = "splats"
    OBJ = "obj"


@dataclass(frozen=True)
class GenerationOptions:
    """One object from HTTP to the samplers; every field has an effect.

    ``guidance`` (Stage 1, model.md 7) and ``stage2_guidance`` (model.md 12) default to the
    checkpoint's own scale when they are None. ``target_faces`` wins over ``simplify``, which is the
    share of faces that decimation removes (0 keeps all, 0.7 is the official value).
    """

    mode: Mode = Mode.OFFICIAL
    stage1_steps: int = 50
    stage2_steps: int = 25
    seed: int = 43
    guidance: float | None = None
    stage2_guidance: float | None = None
    texture_size: int = 2048
    texture_format: TextureFormat = TextureFormat.PNG
    simplify: float = 0.7
    target_faces: int | None = None
    formats: tuple[OutputFormat, ...] = ()


@dataclass(frozen=True)
class PreparedImage:
    """The user's picture, oriented, matted and framed (model.md section 4)."""

    original: UInt8  # (h, w, 4) the user's picture after orientation and matting
    rgba: UInt8  # (H, H, 4) cropped to the subject, centred
    front: UInt8  # (H, H, 3) rgba on white, 8 bit by truncation
    face: UInt8  # (H, H, 3) top centre third of rgba, enlarged, on white
    condition: UInt8  # (C, C, 3) square crop with margin, on black
    alpha_coverage: float  # share of the original picture that the subject covers, 0..1
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class MultiviewResult:
    """What Stage 1 found: five views, their normals and the occupied voxels."""

    color: UInt8  # (5, H, H, 3) order of VIEWS, on white
    normal: UInt8  # (5, H, H, 3) world-frame normals, value = (n + 1) / 2, on white
    voxels: NDArray[np.int16]  # (N, 3) x, y, z indices into the grid, ascending
    grid: int  # voxels a side: 64 in the official checkpoint
    seed: int
    steps: int
    timings: dict[str, float] = field(default_factory=dict)  # seconds by part


@dataclass(frozen=True)
class MeshStatistics:
    """What was measured on the finished mesh."""

    vertices: int
    faces: int
    watertight: bool
    edge_manifold: bool
    bodies: int
    volume: float  # of the unit cube
    texture_size: int  # pixels a side
    texels_seen: float  # share of texels that at least one view colours, 0..1


@dataclass(frozen=True)
class Surface:
    """Stage 2's surface before decimation: with the five pictures, all that finishing needs."""

    vertices: NDArray[np.float32]  # (V, 3) world frame of model.md 3
    faces: NDArray[np.int32]  # (F, 3)
    gaussians: NDArray[np.float32]  # (M, 14) centre, scale, rotation, opacity, colour
    provenance: dict[str, Any] = field(default_factory=dict)  # JSON-ready, goes into the GLB


@dataclass(frozen=True)
class Asset:
    """What Stage 2 delivers, as file contents."""

    glb: bytes
    mesh_ply: bytes
    statistics: MeshStatistics
    splats_ply: bytes | None = None
    obj_zip: bytes | None = None  # OBJ, MTL and texture in one archive
    timings: dict[str, float] = field(default_factory=dict)  # seconds by part
    surface: Surface | None = None  # to finish again with other options


@dataclass(frozen=True)
class Progress:
    """Emitted when a part starts and at every sampling step."""

    stage: str  # "preprocess", "stage1", "stage2", "preview"
    step: int  # steps finished, 0..steps
    steps: int
    message: str
    sampling: bool = False  # a sampling step is done, and no other part


ProgressCallback = Callable[[Progress], None]
CancelCheck = Callable[[], bool]


def ignore_progress(_: Progress) -> None:
    """The progress callback of somebody who does not watch."""


def never_cancelled() -> bool:
    """The cancel check of somebody who never cancels."""
    return False
