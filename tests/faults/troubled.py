"""The paced stages with faults that a test orders while the service runs.

An order is a file ``<folder>/trouble/<stage>``; it stands until the test takes it away:

    memory       every run raises MemoryError
    error        every run raises
    start        the constructor raises
    slow 6       the constructor takes 6 seconds
"""

# No ``from __future__ import annotations``: Serve reads what the builders' argument is.

import time
from pathlib import Path

from ray.serve import Application

from benchmarks.logical.stages import (
    Pace,
    PacedStage1Pipeline,
    PacedStage2Pipeline,
)
from deployments.contracts import CancelCheck, ProgressCallback
from deployments.replica import Loaded, Weights
from deployments.stage1.deployment import Stage1
from deployments.stage2.deployment import Stage2
from serve_app.app import bind_stage1, bind_stage2
from serve_app.settings import Stage1Args, Stage2Args


def ordered(folder: Path, stage: str) -> list[str]:
    """The words of the standing order, empty without one."""
    try:
        return (folder / "trouble" / stage).read_text().split()
    except FileNotFoundError:
        return []


def start_in_trouble(folder: Path, stage: str) -> None:
    match ordered(folder, stage):
        case ["start"]:
            raise RuntimeError(f"{stage} was ordered not to start")
        case ["slow", seconds]:
            time.sleep(float(seconds))


def run_in_trouble(folder: Path, stage: str) -> None:
    match ordered(folder, stage):
        case ["memory"]:
            raise MemoryError(f"{stage} was ordered to run out of memory")
        case ["error"]:
            raise ValueError(f"{stage} was ordered to fail")


class TroubledStage1Pipeline(PacedStage1Pipeline):
    def hold(self, seed: int, progress: ProgressCallback, cancelled: CancelCheck) -> None:
        run_in_trouble(self.pace.folder, self.stage)
        super().hold(seed, progress, cancelled)


class TroubledStage2Pipeline(PacedStage2Pipeline):
    def hold(self, seed: int, progress: ProgressCallback, cancelled: CancelCheck) -> None:
        run_in_trouble(self.pace.folder, self.stage)
        super().hold(seed, progress, cancelled)


class TroubledStage1(Stage1.func_or_class):
    @staticmethod
    def load(weights: Weights, compile_model: bool) -> Loaded:
        pace = Pace.parse(weights.checkpoint)
        start_in_trouble(pace.folder, "stage1")
        return Loaded(TroubledStage1Pipeline(pace))


class TroubledStage2(Stage2.func_or_class):
    @staticmethod
    def load(weights: Weights, extraction: str) -> Loaded:
        pace = Pace.parse(weights.checkpoint)
        start_in_trouble(pace.folder, "stage2")
        if extraction == "kaolin":
            from deployments.stage2.mesh.kaolin_extractor import import_flexicubes

            import_flexicubes()
        return Loaded(TroubledStage2Pipeline(pace))


def stage1(args: Stage1Args) -> Application:
    return bind_stage1(args, Stage1.options(func_or_class=TroubledStage1))


def stage2(args: Stage2Args) -> Application:
    return bind_stage2(args, Stage2.options(func_or_class=TroubledStage2))
