"""The worker with real threads and stand-in work: sleeping steps instead of networks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable

import pytest

from deployments.contracts import CancelCheck, Progress, ProgressCallback
from deployments.errors import Cancelled, InputError
from deployments.messages import (
    Accepted,
    Failed,
    Finished,
    Heartbeat,
    StageItem,
    Started,
    Step,
    Unavailable,
    WorkOrder,
)
from deployments.stage_report import RunEnd
from deployments.stage_worker import StageWorker, WorkerFacts

ORDER = WorkOrder(job="j", fence=1, lease_s=5)
FACTS = WorkerFacts(stage="stage1", replica="r1", checkpoint="random:small")


class Steps:
    """Work of ``steps`` pauses that notes how many of it run at once and how far each came."""

    def __init__(self, steps: int = 3, pause_s: float = 0.01) -> None:
        self.steps, self.pause_s = steps, pause_s
        self.running = self.most_at_once = self.done = 0
        self.began = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, progress: ProgressCallback, cancelled: CancelCheck) -> str:
        with self._lock:
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
        self.began.set()
        try:
            for step in range(self.steps):
                if cancelled():
                    raise Cancelled
                time.sleep(self.pause_s)
                self.done = step + 1
                progress(Progress("stage1", step + 1, self.steps, "sampling", sampling=True))
            return "value"
        finally:
            with self._lock:
                self.running -= 1


async def collect(
    worker: StageWorker, work: Callable[..., object], order: WorkOrder = ORDER
) -> list[StageItem]:
    async with worker.run(order, work) as items:
        return [item async for item in items]


async def until(condition: Callable[[], bool], within_s: float = 5) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), within_s)


async def test_a_run_tells_its_whole_story():
    items = await collect(StageWorker(FACTS), Steps(2))
    assert items[:2] == [Accepted("r1"), Started()]
    assert [item.progress.step for item in items[2:-1] if isinstance(item, Step)] == [1, 2]
    assert isinstance(items[-1], Finished)
    assert (items[-1].value, items[-1].checkpoint) == ("value", "random:small")


async def test_step_seconds_are_those_of_a_sampling_step():
    def work(progress: ProgressCallback, cancelled: CancelCheck) -> None:
        time.sleep(0.05)
        progress(Progress("stage1", 1, 1, "sampling", sampling=True))
        progress(Progress("stage1", 1, 1, "decoding"))

    worker = StageWorker(FACTS)
    await collect(worker, work)
    seconds = worker.heartbeat().step_seconds
    assert seconds is not None
    assert seconds >= 0.05


async def test_the_loop_answers_while_the_thread_works():
    worker, work = StageWorker(FACTS), Steps(1, pause_s=0.3)
    run = asyncio.create_task(collect(worker, work))
    await until(work.began.is_set)
    assert worker.heartbeat().busy
    worker.check_health()
    assert not run.done()
    await run
    assert not worker.heartbeat().busy


async def test_leaving_stops_the_work_before_its_next_step_and_frees_the_slot_then():
    worker, first, second = StageWorker(FACTS), Steps(100, pause_s=0.05), Steps(1)

    async def leave_after_one_step() -> None:
        async with worker.run(ORDER, first) as items:
            async for item in items:
                if isinstance(item, Step):
                    return

    leaving = asyncio.create_task(leave_after_one_step())
    await until(first.began.is_set)
    assert isinstance((await collect(worker, second))[-1], Finished)
    await leaving
    assert first.done < 5
    assert first.running == 0


async def test_a_cancelled_caller_keeps_the_slot_until_the_thread_has_stopped():
    worker, work = StageWorker(FACTS), Steps(100, pause_s=0.1)
    run = asyncio.create_task(collect(worker, work))
    await until(work.began.is_set)
    run.cancel()
    await asyncio.sleep(0.01)
    run.cancel()  # the second one must not break the wait
    after = asyncio.create_task(collect(worker, work))
    with pytest.raises(asyncio.CancelledError):
        await run
    await until(lambda: work.done > 3)
    after.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await after
    assert work.most_at_once == 1


async def test_a_waiting_run_is_accepted_and_begins_only_when_the_slot_is_free():
    worker, first = StageWorker(FACTS), Steps(1, pause_s=0.2)
    running = asyncio.create_task(collect(worker, first))
    await until(first.began.is_set)
    async with worker.run(ORDER, Steps(1)) as items:
        assert await anext(items) == Accepted("r1")
        assert await anext(items) == Started()
        assert first.running == 0
    await running


async def test_a_considered_error_keeps_its_kind_and_is_not_worth_a_retry():
    def refuse(progress: ProgressCallback, cancelled: CancelCheck) -> None:
        raise InputError("no person in it", code="no_subject", share=0.0)

    worker = StageWorker(FACTS)
    failed = (await collect(worker, refuse))[-1]
    assert failed == Failed(
        "no_subject", "no person in it", False, kind="InputError", detail={"share": 0.0}
    )
    worker.check_health()


async def test_an_unexpected_error_may_pass():
    def fail(progress: ProgressCallback, cancelled: CancelCheck) -> None:
        raise ValueError("odd")

    failed = (await collect(StageWorker(FACTS), fail))[-1]
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable) == ("stage1_failed", True)
    assert "ValueError: odd" in failed.message


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own, which is how the worker knows it."""


@pytest.mark.parametrize(
    "error", [OutOfMemoryError("tried to allocate 2 GiB"), RuntimeError("CUDA error: unspecified")]
)
async def test_a_broken_process_takes_no_more_work_and_asks_to_be_replaced(error):
    def fail(progress: ProgressCallback, cancelled: CancelCheck) -> None:
        raise error

    worker = StageWorker(FACTS)
    failed = (await collect(worker, fail))[-1]
    assert isinstance(failed, Failed)
    assert failed.retryable
    with pytest.raises(RuntimeError, match="restarts after"):
        worker.check_health()
    (refusal,) = await collect(worker, Steps())
    assert isinstance(refusal, Unavailable)
    assert refusal.temporary
    assert worker.heartbeat().restarting


async def test_a_broken_process_is_spent_when_its_last_run_has_ended():
    worker, other = StageWorker(FACTS, slots=2), Steps(1, pause_s=0.3)

    def fail(progress: ProgressCallback, cancelled: CancelCheck) -> None:
        raise MemoryError

    spent = asyncio.create_task(worker.spent())
    running = asyncio.create_task(collect(worker, other))
    await until(other.began.is_set)
    await collect(worker, fail, WorkOrder(job="k", fence=1))
    await asyncio.sleep(0)
    assert not spent.done(), "another run is on"
    assert isinstance((await running)[-1], Finished)
    await asyncio.wait_for(spent, 5)


async def test_a_sound_process_is_never_spent():
    worker = StageWorker(FACTS)
    spent = asyncio.create_task(worker.spent())

    def fail(progress: ProgressCallback, cancelled: CancelCheck) -> None:
        raise ValueError

    await collect(worker, Steps(1))
    await collect(worker, fail)
    await asyncio.sleep(0.05)
    assert not spent.done()
    spent.cancel()


async def test_a_replica_without_its_library_says_why():
    worker = StageWorker(FACTS, reason="kaolin is missing")
    assert await collect(worker, Steps()) == [Unavailable("kaolin is missing")]
    beat = worker.heartbeat()
    assert (beat.reason, beat.restarting) == ("kaolin is missing", False)
    worker.check_health()


async def test_no_progress_for_too_long_is_unhealthy():
    worker, work = StageWorker(FACTS, step_timeout_s=0.05), Steps(1, pause_s=0.4)
    run = asyncio.create_task(collect(worker, work))
    await until(work.began.is_set)
    worker.check_health()
    await asyncio.sleep(0.1)
    with pytest.raises(RuntimeError, match=r"no progress on job j/1"):
        worker.check_health()
    await run
    worker.check_health()


async def test_a_job_that_was_taken_over_stops():
    async def over(order: WorkOrder) -> float:
        assert order == ORDER
        return 0.0

    worker, work = StageWorker(FACTS, ask_lease=over, alive_check_s=0.02), Steps(1000, 0.01)
    failed = (await collect(worker, work))[-1]
    assert isinstance(failed, Failed)
    assert failed.code == "cancelled"
    assert work.done < 1000


async def test_without_an_answer_the_run_ends_shortly_before_its_lease():
    async def nobody(order: WorkOrder) -> float:
        raise ConnectionError

    order = WorkOrder("j", 1, lease_s=0.2)
    worker, work = StageWorker(FACTS, ask_lease=nobody, alive_check_s=0.02), Steps(1000, 0.01)
    began = time.monotonic()
    async with worker.run(order, work) as items:
        last = [item async for item in items][-1]
    assert isinstance(last, Failed)
    assert 0.15 <= time.monotonic() - began < 5
    assert work.done < 1000


async def test_a_slow_answer_is_waited_for():
    """On a busy machine an answer takes longer than the time between two questions."""

    async def slow(order: WorkOrder) -> float:
        await asyncio.sleep(0.2)
        return 1.0

    order = WorkOrder("j", 1, lease_s=1.0)
    worker, work = StageWorker(FACTS, ask_lease=slow, alive_check_s=0.02), Steps(150, 0.01)
    items = await collect(worker, work, order)
    assert isinstance(items[-1], Finished)


async def test_a_lease_that_nobody_renews_ends_the_run_before_another_may_begin():
    over = time.monotonic() + 0.4

    async def left(order: WorkOrder) -> float:
        return over - time.monotonic()

    order = WorkOrder("j", 1, lease_s=0.4)
    worker, work = StageWorker(FACTS, ask_lease=left, alive_check_s=0.15), Steps(1000, 0.01)
    failed = (await collect(worker, work, order))[-1]
    assert isinstance(failed, Failed)
    assert failed.code == "cancelled"
    assert time.monotonic() < over


async def test_heartbeats_go_on_without_a_listener():
    heard: list[Heartbeat] = []

    async def deaf_at_first(beat: Heartbeat) -> None:
        heard.append(beat)
        if len(heard) < 3:
            raise ConnectionError

    beating = asyncio.create_task(StageWorker(FACTS).beat(deaf_at_first, period_s=0.01))
    await until(lambda: len(heard) > 4)
    beating.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await beating


async def test_slots_let_a_cpu_stage_do_several_at_once():
    worker, work = StageWorker(FACTS, slots=2), Steps(3, pause_s=0.05)
    await asyncio.gather(*(collect(worker, work) for _ in range(4)))
    assert work.most_at_once == 2


class Told:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.ends: list[RunEnd] = []
        self.steps: list[float] = []
        self.memories: list[tuple[int, int]] = []

    def constructed(self, stage: str, seconds: float) -> None: ...

    def stepped(self, stage: str, seconds: float) -> None:
        self.steps.append(seconds)

    def memory(self, stage: str, total: int, used: int) -> None:
        self.memories.append((total, used))

    def ended(self, run: RunEnd) -> None:
        self.ends.append(run)


ORDERED = WorkOrder("j", 2, attempt=2, request_id="req-1", traceparent="00-aa-bb-01")


async def test_a_run_that_ends_is_told_and_logged_once(caplog):
    told = Told()
    with caplog.at_level("INFO", "ray.serve"):
        await collect(StageWorker(FACTS, sink=told), Steps(3), ORDERED)
    (run,) = told.ends
    assert (run.outcome, run.steps, run.code, run.order) == ("completed", 3, None, ORDERED)
    assert 0 < run.seconds < 5
    assert abs(run.began - time.time()) < 5
    assert len(told.steps) == 3
    (fields,) = [record.ray_serve_extra_fields for record in caplog.records]
    assert fields.pop("seconds") == pytest.approx(run.seconds, abs=0.001)
    assert fields == {
        "event": "stage_end",
        "job_id": "j",
        "request_id": "req-1",
        "stage": "stage1",
        "outcome": "completed",
        "steps": 3,
        "device": "cpu",
        "attempt": 2,
        "fence": 2,
        "traceparent": "00-aa-bb-01",
    }


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (InputError("no person", code="no_subject"), "failed", "no_subject"),
        (ValueError("?"), "failed", "stage1_failed"),
        (Cancelled(), "cancelled", None),
    ],
)
async def test_the_end_of_a_run_that_fails_has_its_code(error, outcome, code):
    def work(progress: object, cancelled: object) -> None:
        raise error

    told = Told()
    await collect(StageWorker(FACTS, sink=told), work)
    (run,) = told.ends
    assert (run.outcome, run.code, run.steps) == (outcome, code, 0)


async def test_a_run_whose_caller_left_ends_too():
    told, work = Told(), Steps(1000)
    async with StageWorker(FACTS, sink=told).run(ORDER, work) as items:
        async for item in items:
            if isinstance(item, Step):
                break
    (run,) = told.ends
    assert run.outcome == "cancelled"
    assert 1 <= run.steps < 1000


async def test_a_broken_process_says_so_before_its_next_heartbeat_is_due():
    beats: list[Heartbeat] = []

    async def send(beat: Heartbeat) -> None:
        beats.append(beat)

    def work(progress: object, cancelled: object) -> None:
        raise MemoryError

    told = Told()
    worker = StageWorker(FACTS, sink=told, memory=lambda: (80, 20))
    beating = asyncio.create_task(worker.beat(send, 3600))
    await until(lambda: len(beats) == 1)
    await collect(worker, work)
    await until(lambda: len(beats) == 2)
    beating.cancel()
    assert [beat.restarting for beat in beats] == [False, True]
    assert told.memories == [(80, 20)] * 2
