"""Stages that follow a script, in place of deployment handles: the runner can not tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np

from deployments.contracts import (
    Asset,
    MeshStatistics,
    MultiviewResult,
    PreparedImage,
    Progress,
    Surface,
)
from deployments.messages import Accepted, Finished, StageItem, Started, Step, WorkOrder

SIDE = 12
HANG = object()  # in a script: nothing more comes


def prepared_image() -> PreparedImage:
    rgba = np.full((SIDE, SIDE, 4), 200, np.uint8)
    rgb = rgba[..., :3]
    return PreparedImage(rgba, rgba, rgb, rgb, rgb, 0.5, warnings=("the picture is small",))


def multiview_result(seed: int = 43) -> MultiviewResult:
    noise = np.random.default_rng(seed)
    views = noise.integers(0, 255, (5, SIDE, SIDE, 3), np.uint8)
    voxels = np.array([[1, 2, 3], [4, 5, 6]], np.int16)
    return MultiviewResult(views, 255 - views, voxels, 32, seed, 50, {"sampling": 1.5})


def surface() -> Surface:
    vertices = np.eye(3, dtype=np.float32)
    gaussians = np.random.default_rng(5).random((4, 14), np.float32)
    return Surface(vertices, np.array([[0, 1, 2]], np.int32), gaussians, {"seed": 43})


def asset() -> Asset:
    statistics = MeshStatistics(3, 1, False, True, 1, 0.1, 256, 0.9)
    return Asset(b"glTF-bytes", b"ply-bytes", statistics, timings={"bake": 0.5}, surface=surface())


def run_of(stage: str, value: Any, steps: int = 2) -> list[StageItem]:
    """What a run that goes well says."""
    progress = [Step(Progress(stage, step + 1, steps, "sampling")) for step in range(steps)]
    finished = Finished(value, 2.5, "random:small", {"attention": "sdpa"})
    return [Accepted(f"{stage}-r"), Started(), *progress, finished]


class ScriptedStage:
    """Each call plays the next script: items to yield, exceptions to raise, or ``HANG``.

    The last script is played again and again.
    """

    def __init__(self, *scripts: list[Any]) -> None:
        self.scripts = list(scripts)
        self.calls: list[tuple[WorkOrder, tuple[Any, ...]]] = []
        self.cancelled = 0

    def __call__(self, order: WorkOrder, *inputs: Any) -> ScriptedStream:
        self.calls.append((order, inputs))
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        return ScriptedStream(self, script)

    @property
    def fences(self) -> list[int]:
        return [order.fence for order, _ in self.calls]


class ScriptedStream:
    def __init__(self, stage: ScriptedStage, script: list[Any]) -> None:
        self._stage = stage
        self._script = list(script)

    def __aiter__(self) -> AsyncIterator[StageItem]:
        return self._items()

    async def _items(self) -> AsyncIterator[StageItem]:
        for item in self._script:
            if item is HANG:
                await asyncio.Event().wait()
            if isinstance(item, BaseException):
                raise item
            await asyncio.sleep(0)
            yield item

    def cancel(self) -> None:
        """As Ray's own: after a failed call it raises that call's error again."""
        self._stage.cancelled += 1
        for item in self._script:
            if isinstance(item, BaseException):
                raise item
