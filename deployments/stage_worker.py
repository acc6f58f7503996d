"""How a stage replica works: one thread that computes, one loop that always answers.

Plain asyncio and threads (the Ray shells are the ``deployment.py`` files), after serving.md 5:

- the pipeline runs in a thread, so that the loop stays free for health checks and heartbeats;
- a cancelled caller sets an event that the pipeline looks at before every step;
- the slot is kept until the thread has really stopped: Serve hands the replica its next request
  at the moment of cancellation, and two models' activations do not fit on one card;
- a replica asks whether its job is still on, because nobody cancels the work of a dead caller;
- a process that ran out of memory, or whose card failed, takes no further work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from deployments.contracts import CancelCheck, Progress, ProgressCallback
from deployments.errors import Cancelled, SyncHumanError
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
from deployments.stage_report import NoSink, RunEnd, StageSink, log_fields, log_run_end

Work = Callable[[ProgressCallback, CancelCheck], Any]
SendHeartbeat = Callable[[Heartbeat], Awaitable[None]]
AskLease = Callable[
    [WorkOrder], Awaitable[float]
]  # seconds that the job's lease still has, 0: over

# Names, not classes: this module is imported where torch must not be.
OUT_OF_MEMORY = frozenset({"OutOfMemoryError", "MemoryError"})
DEVICE_BROKEN = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS", "out of memory")


@dataclass(frozen=True)
class WorkerFacts:
    """What does not change while a replica lives, told in every heartbeat."""

    stage: str
    replica: str
    device: str = "cpu"
    checkpoint: str = ""
    backends: dict[str, str] = field(default_factory=dict)


class StageWorker:
    """Runs one pipeline call at a time (``slots`` of them on a CPU stage) and reports about it.

    :param reason: why this replica can not work at all (an optional library is missing); every run
        is then answered with ``Unavailable`` at once.
    :param memory: bytes total and in use on the device, asked for every heartbeat.
    :param step_timeout_s: seconds without progress after which ``check_health`` raises.
    :param sink: who is told what this replica does.
    """

    def __init__(
        self,
        facts: WorkerFacts,
        *,
        slots: int = 1,
        reason: str | None = None,
        memory: Callable[[], tuple[int, int] | None] = lambda: None,
        step_timeout_s: float = 600.0,
        alive_check_s: float = 3.0,
        ask_lease: AskLease | None = None,
        sink: StageSink | None = None,
    ) -> None:
        self.facts = facts
        self.reason = reason
        self.broken: str | None = None
        self._memory = memory
        self._step_timeout_s = step_timeout_s
        self._alive_check_s = alive_check_s
        self._ask_lease = ask_lease
        self._sink = sink or NoSink()
        self._news = asyncio.Event()  # something that the next heartbeat should not wait to tell
        self._spent = asyncio.Event()
        self._slots = asyncio.Semaphore(slots)
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix=facts.stage)
        self._last_sign: dict[str, float] = {}  # by run: when it last made progress
        self._step_seconds: float | None = None
        self._log = logging.getLogger("ray.serve")

    def run(
        self, order: WorkOrder, work: Work
    ) -> contextlib.aclosing[AsyncGenerator[StageItem, None]]:
        """Do ``work(progress, cancelled)`` in the thread: items of deployments/messages.py.

        Leaving the context cancels the work and waits until it has stopped::

            async with worker.run(order, work) as items:
                async for item in items: ...
        """
        return contextlib.aclosing(self._items(order, work))

    def check_health(self) -> None:
        """Raise when this process should be replaced. Never touches the device."""
        if self.broken:
            raise RuntimeError(self.broken)
        now = time.monotonic()
        for run, sign in self._last_sign.items():
            if now - sign > self._step_timeout_s:
                raise RuntimeError(
                    f"{self.facts.stage} made no progress on job {run} for {now - sign:.0f} s "
                    f"(step_timeout_s is {self._step_timeout_s:.0f})"
                )

    async def spent(self) -> None:
        """Returns when this process is broken and nothing runs in it any more."""
        await self._spent.wait()

    def heartbeat(self) -> Heartbeat:
        total, used = self._memory() or (None, None)
        if total is not None and used is not None:
            self._sink.memory(self.facts.stage, total, used)
        return Heartbeat(
            stage=self.facts.stage,
            replica=self.facts.replica,
            device=self.facts.device,
            checkpoint=self.facts.checkpoint,
            backends=self.facts.backends,
            busy=bool(self._last_sign),
            step_seconds=self._step_seconds,
            memory_total=total,
            memory_used=used,
            reason=self.reason or self.broken,
            restarting=self.broken is not None,
        )

    async def beat(self, send: SendHeartbeat, period_s: float) -> None:
        """Send a heartbeat for ever, and one at once when the process broke.

        A jobs room that is away is no reason to stop.
        """
        while True:
            self._news.clear()
            try:
                await asyncio.wait_for(send(self.heartbeat()), timeout=period_s)
            except Exception as error:
                self._log.debug("%s: heartbeat not delivered: %s", self.facts.replica, error)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), timeout=period_s)

    async def _items(self, order: WorkOrder, work: Work) -> AsyncGenerator[StageItem, None]:
        if problem := self._problem():
            yield problem
            return
        yield Accepted(self.facts.replica)
        async with self._slots:
            if problem := self._problem():  # the run before this one broke the process
                yield problem
                return
            yield Started()
            # Closed by name, not by the garbage collector: the slot must outlive the thread.
            async with contextlib.aclosing(self._in_thread(order, work)) as items:
                async for item in items:
                    yield item

    def _problem(self) -> Unavailable | None:
        if self.broken:
            return Unavailable(self.broken, temporary=True)
        return Unavailable(self.reason) if self.reason else None

    async def _in_thread(self, order: WorkOrder, work: Work) -> AsyncGenerator[StageItem, None]:
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[StageItem | None] = asyncio.Queue()
        stop = threading.Event()
        run = f"{order.job}/{order.fence}"
        began, wall = time.monotonic(), time.time()
        self._last_sign[run] = began
        sampled = 0

        def progress(value: Progress) -> None:
            nonlocal sampled
            now = time.monotonic()
            if value.sampling:
                sampled += 1
                self._step_seconds = seconds = now - self._last_sign.get(run, now)
                loop.call_soon_threadsafe(self._sink.stepped, self.facts.stage, seconds)
            self._last_sign[run] = now
            loop.call_soon_threadsafe(items.put_nowait, Step(value))

        thread = loop.run_in_executor(self._threads, work, progress, stop.is_set)
        thread.add_done_callback(lambda _: items.put_nowait(None))
        watch = asyncio.create_task(self._stop_when_orphaned(order, stop))
        try:
            while (item := await items.get()) is not None:
                yield item
            yield self._outcome(thread, order, time.monotonic() - began)
        finally:
            stop.set()
            watch.cancel()
            while not thread.done():  # a second cancellation must not free the slot either
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({thread})
            if not thread.cancelled():
                self._note_damage(thread.exception())
            self._last_sign.pop(run, None)
            if self.broken and not self._last_sign:
                self._spent.set()
            self._tell_end(thread, order, wall, time.monotonic() - began, sampled)

    def _outcome(
        self, thread: asyncio.Future[Any], order: WorkOrder, seconds: float
    ) -> Finished | Failed:
        error = thread.exception()
        if error is None:
            return Finished(thread.result(), seconds, self.facts.checkpoint, self.facts.backends)
        self._note_damage(error)
        where = log_fields(job_id=order.job, stage=self.facts.stage, request_id=order.request_id)
        if isinstance(error, Cancelled):
            return Failed(error.code, error.message, retryable=False)
        if isinstance(error, SyncHumanError):
            self._log.warning("%s: %s", self.facts.stage, error, extra=where)
            # A considered verdict comes again anywhere; what nobody thought of may pass.
            kind = type(error).__name__
            return Failed(error.code, error.message, False, kind=kind, detail=error.detail)
        self._log.error("%s failed", self.facts.stage, exc_info=error, extra=where)
        message = f"{self.facts.stage} failed with {type(error).__name__}: {error}"
        return Failed(f"{self.facts.stage}_failed", message[:2000], retryable=True)

    def _tell_end(
        self,
        thread: asyncio.Future[Any],
        order: WorkOrder,
        wall: float,
        seconds: float,
        steps: int,
    ) -> None:
        error = None if thread.cancelled() else thread.exception()
        outcome, code = "completed", None
        if thread.cancelled() or isinstance(error, Cancelled):
            outcome = "cancelled"
        elif error is not None:
            outcome = "failed"
            code = error.code if isinstance(error, SyncHumanError) else f"{self.facts.stage}_failed"
        run = RunEnd(
            order, self.facts.stage, self.facts.device, outcome, wall, seconds, steps, code
        )
        self._log.info(
            "%s %s after %.2f s", run.stage, run.outcome, run.seconds, extra=log_run_end(run)
        )
        self._sink.ended(run)

    def _note_damage(self, error: BaseException | None) -> None:
        """Out of memory and device errors leave a process that fails again: ask for a new one."""
        if error is None or isinstance(error, SyncHumanError):
            return
        names = {kind.__name__ for kind in type(error).__mro__}
        if names & OUT_OF_MEMORY or any(sign in str(error) for sign in DEVICE_BROKEN):
            first_line = str(error).splitlines()[0][:200] if str(error) else ""
            self.broken = (
                f"{self.facts.stage} restarts after {type(error).__name__}: {first_line}"
            ).rstrip(": ")
            self._news.set()

    async def _stop_when_orphaned(self, order: WorkOrder, stop: threading.Event) -> None:
        """Set ``stop`` when the job is no longer this run's: taken over, cancelled or forgotten.

        Also shortly before its lease is over, because then another runner may begin the job.
        """
        if self._ask_lease is None:
            return
        period = self._alive_check_s
        margin = min(period, order.lease_s / 4)
        ends = time.monotonic() + order.lease_s
        while not stop.is_set():
            now = time.monotonic()
            await asyncio.sleep(min(period, max(ends - margin - now, 0.0)))
            asked = time.monotonic()
            # A slow answer is waited for, and a lost one leaves time to ask again.
            left = ends - margin - asked
            patience = max(min(period, left), left / 2, margin / 2)
            with contextlib.suppress(Exception):  # nobody there: the lease last seen counts
                ends = asked + await asyncio.wait_for(self._ask_lease(order), patience)
            if ends - time.monotonic() <= margin:
                self._log.warning(
                    "%s: job %s is no longer mine (fence %s), stopping",
                    self.facts.replica,
                    order.job,
                    order.fence,
                    extra=log_fields(job_id=order.job, request_id=order.request_id),
                )
                stop.set()
