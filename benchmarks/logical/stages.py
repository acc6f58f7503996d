"""Stages that hold their slot for a fixed time, behind the shells of the product.

Scheduling, faults and upgrades are the same for any pipeline, so what is measured and broken here
is all real except the pipeline: builders, deployments, worker, heartbeats, runner, store, HTTP. The
checkpoint's name carries the pace::

    paced:seconds=0.5&folder=/tmp/x

Every run notes its begin and end in ``<folder>/journal``. Which job it is for is told by the seed,
which also goes through both stages into the GLB: an answer with another seed is a wrong one.
"""

# No ``from __future__ import annotations``: Serve reads what the builders' argument is.

import json
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlencode

import numpy as np
from ray.serve import Application

from deployments.contracts import (
    Asset,
    CancelCheck,
    GenerationOptions,
    MeshStatistics,
    MultiviewResult,
    PreparedImage,
    Progress,
    ProgressCallback,
)
from deployments.errors import Cancelled
from deployments.replica import Loaded, Weights
from deployments.stage1.deployment import Stage1
from deployments.stage2.deployment import Stage2
from serve_app.app import bind_stage1, bind_stage2
from serve_app.settings import Stage1Args, Stage2Args

STEPS = 5
SIDE, GRID = 64, 32
SCHEME = "paced:"


@dataclass(frozen=True)
class Pace:
    """How long a run takes, and where it is noted."""

    seconds: float
    folder: Path

    @classmethod
    def parse(cls, checkpoint: str) -> "Pace":
        values = parse_qs(checkpoint.removeprefix(SCHEME), strict_parsing=True)
        return cls(float(values["seconds"][0]), Path(values["folder"][0]))

    def __str__(self) -> str:
        return SCHEME + urlencode({"seconds": self.seconds, "folder": str(self.folder)})


class PacedPipeline:
    """What both stages share: the slot's time, in steps, with an eye on cancellation."""

    stage = ""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        folder = pace.folder / "journal"
        folder.mkdir(parents=True, exist_ok=True)
        self._journal = folder / f"{self.stage}-{os.getpid()}.jsonl"

    def hold(self, seed: int, progress: ProgressCallback, cancelled: CancelCheck) -> None:
        with self._noted(seed):
            began = time.monotonic()
            for step in range(STEPS):
                if cancelled():
                    raise Cancelled
                left = began + self.pace.seconds * (step + 1) / STEPS - time.monotonic()
                time.sleep(max(left, 0.0))
                progress(Progress(self.stage, step + 1, STEPS, "holding the slot", sampling=True))

    @contextmanager
    def _noted(self, seed: int) -> Iterator[None]:
        self._note(seed, "begin")
        try:
            yield
        finally:
            self._note(seed, "end")

    def _note(self, seed: int, what: str) -> None:
        line = {"stage": self.stage, "seed": seed, "pid": os.getpid(), "what": what}
        with self._journal.open("a") as file:
            file.write(json.dumps({**line, "time": time.time()}) + "\n")


class PacedStage1Pipeline(PacedPipeline):
    """A cube that stands in the middle, in a colour that the seed decides."""

    stage = "stage1"

    def __call__(
        self,
        prepared: PreparedImage,
        options: GenerationOptions,
        *,
        progress: ProgressCallback,
        cancelled: CancelCheck,
    ) -> MultiviewResult:
        self.hold(options.seed, progress, cancelled)
        views = np.full((5, SIDE, SIDE, 3), 255, np.uint8)
        box = slice(SIDE // 4, 3 * SIDE // 4)
        views[:, box, box] = (options.seed % 200, options.seed // 200 % 200, 100)
        normals = np.full_like(views, 255)
        normals[:, box, box] = (128, 0, 128)
        axis = np.arange(GRID // 4, 3 * GRID // 4)
        voxels = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
        steps = options.stage1_steps
        return MultiviewResult(views, normals, voxels.astype(np.int16), GRID, options.seed, steps)


class PacedStage2Pipeline(PacedPipeline):
    """An empty but valid GLB that says whose it is."""

    stage = "stage2"

    def __call__(
        self,
        prepared: PreparedImage,
        multiview: MultiviewResult,
        options: GenerationOptions,
        *,
        progress: ProgressCallback,
        cancelled: CancelCheck,
    ) -> Asset:
        self.hold(options.seed, progress, cancelled)
        seeds = {"seed": options.seed, "stage1_seed": multiview.seed}
        statistics = MeshStatistics(0, 0, False, True, 0, 0.0, options.texture_size, 0.0)
        ply = b"ply\nformat ascii 1.0\nelement vertex 0\nend_header\n"
        return Asset(empty_glb(seeds), ply, statistics)


def empty_glb(extras: dict[str, int]) -> bytes:
    """A GLB without a mesh."""
    document = json.dumps({"asset": {"version": "2.0", "extras": extras}}).encode()
    document += b" " * (-len(document) % 4)
    header = struct.pack("<4sII", b"glTF", 2, 20 + len(document))
    return header + struct.pack("<I4s", len(document), b"JSON") + document


def glb_extras(glb: bytes) -> dict[str, int]:
    """What :func:`empty_glb` was given."""
    (length,) = struct.unpack_from("<I", glb, 12)
    extras: dict[str, int] = json.loads(glb[20 : 20 + length])["asset"]["extras"]
    return extras


class PacedStage1(Stage1.func_or_class):
    @staticmethod
    def load(weights: Weights, compile_model: bool) -> Loaded:
        return Loaded(PacedStage1Pipeline(Pace.parse(weights.checkpoint)))


class PacedStage2(Stage2.func_or_class):
    @staticmethod
    def load(weights: Weights, extraction: str) -> Loaded:
        return Loaded(PacedStage2Pipeline(Pace.parse(weights.checkpoint)))


def stage1(args: Stage1Args) -> Application:
    """The application ``stage1`` with a paced pipeline."""
    return bind_stage1(args, Stage1.options(func_or_class=PacedStage1))


def stage2(args: Stage2Args) -> Application:
    """The application ``stage2`` with a paced pipeline."""
    return bind_stage2(args, Stage2.options(func_or_class=PacedStage2))
