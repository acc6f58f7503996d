"""The parts of one Stage 2 run: announced, timed, and left between steps when somebody cancels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from deployments.contracts import CancelCheck, Progress, ProgressCallback
from deployments.errors import Cancelled

STAGE = "stage2"


class Parts:
    """Counts the steps of a run; a part is one step, unless it reports steps of its own."""

    def __init__(
        self,
        steps: int,
        device: torch.device,
        progress: ProgressCallback,
        cancelled: CancelCheck,
    ) -> None:
        self.seconds: dict[str, float] = {}  # by part
        self.peak_bytes: dict[str, int] = {}  # most memory of a CUDA device during a part
        self._steps, self._done = steps, 0
        self._device = device
        self._progress, self._cancelled = progress, cancelled

    @contextmanager
    def part(self, name: str, message: str) -> Iterator[None]:
        """Announce, run and time one part."""
        self._check()
        self._report(message)
        cuda = self._device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self._device)
        before, start = self._done, time.perf_counter()
        yield
        if cuda:
            torch.cuda.synchronize(self._device)  # kernels run on after the call returned
            self.peak_bytes[name] = torch.cuda.max_memory_allocated(self._device)
        self.seconds[name] = time.perf_counter() - start
        if self._done == before:
            self._count(message)

    def step(self, message: str) -> None:
        """Count and report a sampling step; raises ``Cancelled`` instead of going on."""
        self._count(message, sampling=True)

    def _count(self, message: str, sampling: bool = False) -> None:
        self._done += 1
        self._report(message, sampling)
        self._check()

    def _report(self, message: str, sampling: bool = False) -> None:
        self._progress(Progress(STAGE, self._done, self._steps, message, sampling))

    def _check(self) -> None:
        if self._cancelled():
            raise Cancelled()
