from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from deployments.contracts import MultiviewResult
from deployments.messages import Heartbeat, WorkOrder
from deployments.replica import (
    JobsLine,
    choose_device,
    choose_dtype,
    device_memory,
    device_name,
    own_arrays,
)

ROOT = Path(__file__).parents[2]


def test_read_only_arrays_become_the_stages_own():
    shared = np.zeros((5, 4, 4, 3), np.uint8)
    shared.flags.writeable = False
    given = MultiviewResult(shared, shared, np.zeros((0, 3), np.int16), 32, 1, 50, {"a": 1.0})
    own = own_arrays(given)
    own.color[...] = 9
    torch.from_numpy(own.normal)
    assert shared.max() == 0
    assert (own.grid, own.timings) == (32, {"a": 1.0})


def test_a_spent_process_ends_by_itself():
    program = """
import asyncio
from deployments import replica
from deployments.messages import WorkOrder
from deployments.stage_worker import StageWorker, WorkerFacts

def fail(progress, cancelled):
    raise MemoryError

async def serve():
    replica.LAST_WORDS_S = 0.1
    worker = StageWorker(WorkerFacts("stage1", "r"))
    end = asyncio.create_task(replica.end_when_spent(worker))
    async with worker.run(WorkOrder("j", 1), fail) as items:
        print([type(item).__name__ async for item in items], flush=True)
    await asyncio.sleep(60)

asyncio.run(serve())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert ended.stdout.strip() == "['Accepted', 'Started', 'Failed']"


def test_auto_takes_no_card_that_ray_did_not_reserve():
    assert choose_device("auto", card_reserved=False) == "cpu"
    assert choose_device("cuda:1", card_reserved=False) == "cuda:1", "said by name"


def test_dtypes_by_name():
    assert choose_dtype("auto") is None
    assert choose_dtype("bfloat16") is torch.bfloat16


def test_the_memory_of_a_cpu_is_the_processes_own():
    total, used = device_memory("cpu")() or (0, 0)
    assert 1e7 < used < total
    assert device_name("cpu") == "cpu"


async def test_the_line_to_the_jobs_room():
    heard = []

    class Method:
        def __init__(self, name: str) -> None:
            self.name = name

        async def remote(self, *args: object) -> float:
            heard.append((self.name, args))
            return 12.5

    class Handle:
        alive, heartbeat = Method("alive"), Method("heartbeat")

    line = JobsLine(Handle())
    beat = Heartbeat("stage1", "r", "cpu", "x", {}, busy=False)
    await line.heartbeat(beat)
    assert await line.lease_left(WorkOrder("a", 3)) == 12.5
    assert heard == [("heartbeat", (beat,)), ("alive", ("a", 3))]
