"""What the Ray shells of Stage 1 and Stage 2 need before their worker can run: weights, device,
and the line to the jobs room. Ray itself stays in the ``deployment.py`` files.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from deployments.contracts import MultiviewResult, PreparedImage, Surface
from deployments.messages import Heartbeat, WorkOrder
from deployments.stage_worker import StageWorker

if TYPE_CHECKING:
    import torch

ContractT = TypeVar("ContractT", PreparedImage, MultiviewResult, Surface)

LAST_WORDS_S = 1.0  # for the failure and the heartbeat that are on their way
STATM = Path("/proc/self/statm")  # Linux: sizes of this process in pages


@dataclass(frozen=True)
class Weights:
    """Which weights a replica loads, and how it computes with them."""

    checkpoint: str
    device: str = "auto"  # auto, cpu, cuda, cuda:N
    dtype: str = "auto"  # auto, float32, float16, bfloat16
    attention: str = "auto"  # auto, sdpa, xformers, flash-attn
    fp8: bool = False  # large linear layers of Stage 1


@dataclass(frozen=True)
class Watch:
    """How a replica is watched. Times in seconds."""

    jobs_app: str | None = None  # application with Jobs, None: the replica's own
    heartbeat_s: float = 5.0
    alive_check_s: float = 3.0
    step_timeout_s: float = 600.0


def process_memory() -> tuple[int, int] | None:
    """Bytes of main memory in all and held by this process; None where the system is no Linux."""
    if not STATM.exists():
        return None
    page = os.sysconf("SC_PAGE_SIZE")
    return os.sysconf("SC_PHYS_PAGES") * page, int(STATM.read_text().split()[1]) * page


@dataclass(frozen=True)
class Loaded:
    """What a replica has once its weights are in place, and how it describes itself.

    ``reason``: why it can not work at all; there is no pipeline then.
    """

    pipeline: Any  # what a run calls
    device: str = "cpu"  # as device_name has it
    backends: dict[str, str] = field(default_factory=dict)  # what -> the library that does it
    memory: Callable[[], tuple[int, int] | None] = process_memory
    reason: str | None = None


class JobsLine:
    """What a stage replica says to the jobs room, over a deployment handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def heartbeat(self, beat: Heartbeat) -> None:
        await self._handle.heartbeat.remote(beat)

    async def lease_left(self, order: WorkOrder) -> float:
        """Seconds that the job's lease still has; 0 when the job is not this order's any more."""
        return float(await self._handle.alive.remote(order.job, order.fence))


async def end_when_spent(worker: StageWorker) -> None:
    """End this process once it is broken and its last run has ended.

    Serve replaces a dead replica at its next look, and one that only says in ``check_health`` that
    it is sick after three looks.
    """
    await worker.spent()
    await asyncio.sleep(LAST_WORDS_S)
    logging.shutdown()
    os._exit(1)


def own_arrays(contract: ContractT) -> ContractT:
    """The same contract with arrays of its own.

    Ray hands over read-only views into memory that replicas share; torch takes them with a warning
    and would write through them.
    """
    arrays: dict[str, Any] = {
        part.name: np.array(getattr(contract, part.name))
        for part in fields(contract)
        if isinstance(getattr(contract, part.name), np.ndarray)
    }
    return replace(contract, **arrays)


def choose_device(wish: str, *, card_reserved: bool) -> str:
    """The device to compute on. ``auto`` takes a card only where Ray reserved one.

    Without ``num_gpus`` Ray hides no card, so asking torch would find one that belongs to others.
    On the CPU torch may use every core: Ray has set one thread a reserved CPU, but the stages of a
    small machine take turns.
    """
    import torch

    if wish == "auto":
        wish = "cuda" if card_reserved and torch.cuda.is_available() else "cpu"
    if wish == "cpu":
        torch.set_num_threads(os.cpu_count() or 1)
    return wish


def choose_dtype(wish: str) -> torch.dtype | None:
    """The precision by name, None for ``auto``: then the pipeline follows its device."""
    import torch

    named = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    return None if wish == "auto" else named[wish]


def device_memory(device: str) -> Callable[[], tuple[int, int] | None]:
    """A function that tells bytes total and used by this process on its device.

    On a card it reads the allocator's books, never the card: a hung card must not hang the
    heartbeat. On the CPU it is the process's resident memory, where the system tells it.
    """
    import torch

    if not device.startswith("cuda"):
        return process_memory
    total = torch.cuda.get_device_properties(device).total_memory
    return lambda: (total, torch.cuda.memory_reserved(device))


def device_name(device: str) -> str:
    """``NVIDIA H100 80GB HBM3 (cuda)`` or ``cpu``, as /info shows it."""
    import torch

    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)} ({device})"
    return device
