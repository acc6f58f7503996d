"""Calling a stage through its handle, with a bound on every wait and one name for every end.

A call ends in one of five ways: a ``Finished`` item, ``StageUnavailable`` (nobody took it in time),
``StageLost`` (the replica died), ``StageFailed`` (the stage raised), or cancellation of the caller.
What Ray and Serve raise is known here and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ray.exceptions import RayActorError, RayError, RayTaskError, WorkerCrashedError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
)

from deployments.errors import Cancelled, StageUnavailable
from deployments.messages import (
    Accepted,
    Failed,
    Finished,
    StageItem,
    Started,
    Step,
    Unavailable,
    WorkOrder,
)
from serve_app.jobs.protocol import StageState

LOOK_AGAIN_S = 1.0  # how often a waiting job asks whether the stage's state has changed
BEFORE_NEXT_TRY_S = 0.5


class StageLost(Exception):  # noqa: N818 - a fact about a replica
    """The replica died, or its node is away, in the middle of a run."""


class StageFailed(Exception):  # noqa: N818 - carries the stage's own verdict
    """The stage raised."""

    def __init__(self, failure: Failed) -> None:
        super().__init__(failure.message)
        self.failure = failure


def may_pass(problem: StageLost | StageFailed) -> bool:
    """Whether another try may well succeed."""
    return not isinstance(problem, StageFailed) or problem.failure.retryable


class ItemStream(Protocol):
    """What a streaming handle call gives."""

    def __aiter__(self) -> AsyncIterator[StageItem]: ...

    def cancel(self) -> None: ...


OpenStream = Callable[..., ItemStream]  # (order, *inputs)


@dataclass(frozen=True)
class Patience:
    """How long to wait for ``Accepted``: the stage's state, and the seconds it may last."""

    state: Callable[[], Awaitable[StageState]]
    allowed: Callable[[StageState], float]


def through_handle(handle: Any, name: str = "run") -> OpenStream:
    """Calls of a method on a deployment handle, as streams."""
    method = handle.options(method_name=name, stream=True)
    return lambda *arguments: method.remote(*arguments)


class StageCaller:
    """One stage as the runner sees it."""

    def __init__(
        self, name: str, open_stream: OpenStream, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self._open = open_stream
        self._clock = clock

    async def call(
        self,
        order: WorkOrder,
        *inputs: Any,
        patience: Patience,
        on_started: Callable[[], Awaitable[None]],
        on_step: Callable[[Step], Awaitable[None]],
    ) -> Finished:
        """Wait for a replica, run, and hand on what happens.

        :raises StageUnavailable, StageLost, StageFailed: see the module's text.
        """
        wait = _Wait(self.name, patience, self._clock)
        while True:
            await wait.check()  # where nobody will answer, nothing is asked
            stream = self._open(order, *inputs)
            items = stream.__aiter__()
            try:
                if not await self._accepted(items, wait):
                    continue
                return await self._follow(items, on_started, on_step)
            except _NotYet:
                continue
            finally:
                # After a failed call ``cancel`` raises that call's error again.
                with contextlib.suppress(Exception):
                    stream.cancel()

    async def _accepted(self, items: AsyncIterator[StageItem], wait: _Wait) -> bool:
        """Whether a replica has taken the call; False: try again, there is time left."""
        first = asyncio.ensure_future(anext(items))
        try:
            while not first.done():
                await wait.check()
                await asyncio.wait({first}, timeout=LOOK_AGAIN_S)
            item = first.result()
        except (StageUnavailable, asyncio.CancelledError):
            raise
        except Exception as error:
            verdict = _verdict(self.name, error)
            if not isinstance(verdict, StageLost):  # one that dies before it began costs nothing
                raise verdict from error
            wait.reason = str(verdict)
            item = Unavailable(str(verdict), temporary=True)
        finally:
            first.cancel()
        if isinstance(item, Accepted):
            return True
        await self._wait_out(item, wait)
        return False

    async def _wait_out(self, item: StageItem, wait: _Wait) -> None:
        if not isinstance(item, Unavailable):
            raise StageLost(f"{self.name} spoke out of turn: {type(item).__name__}")
        wait.reason = item.reason
        if not item.temporary and not await wait.others_can():
            raise _unavailable(self.name, item.reason, "idle")
        await asyncio.sleep(BEFORE_NEXT_TRY_S)

    async def _follow(
        self,
        items: AsyncIterator[StageItem],
        on_started: Callable[[], Awaitable[None]],
        on_step: Callable[[Step], Awaitable[None]],
    ) -> Finished:
        began = False
        try:
            async for item in items:
                if isinstance(item, Started):
                    began = True
                    await on_started()
                elif isinstance(item, Step):
                    await on_step(item)
                elif isinstance(item, Finished):
                    return item
                elif isinstance(item, Failed):
                    if item.code == Cancelled.default_code:  # nobody here cancelled it
                        raise StageLost(f"{self.name} believed that the job was not its own")
                    raise StageFailed(item)
                elif isinstance(item, Unavailable):  # the run before this one broke the process
                    raise _NotYet
        except (RayError, RayServeException) as error:
            verdict = _verdict(self.name, error)
            raise (verdict if began else _NotYet()) from error
        raise StageLost(f"{self.name} ended without a result")


class _NotYet(Exception):  # noqa: N818
    """A replica had accepted the call and then did not begin."""


class _Wait:
    """The clock of one job's wait for one stage. It starts anew when the stage's state changes."""

    def __init__(self, stage: str, patience: Patience, clock: Callable[[], float]) -> None:
        self.reason: str | None = None
        self._stage = stage
        self._patience = patience
        self._clock = clock
        self._state = ""
        self._since = clock()

    async def others_can(self) -> bool:
        """Whether some replica reports that it can work, where this one said that it can not."""
        return (await self._patience.state()).state == "up"

    async def check(self) -> None:
        """:raises StageUnavailable: when the stage has been in its state for too long."""
        state = await self._patience.state()
        if state.state != self._state:
            self._state, self._since = state.state, self._clock()
        waited, allowed = self._clock() - self._since, self._patience.allowed(state)
        if waited >= allowed:
            reason = state.reason or self.reason or f"all replicas of {self._stage} are busy"
            waiting = f" (waited {waited:.0f} s)" if allowed else ""
            word = "busy" if state.state == "up" else state.state
            raise _unavailable(self._stage, reason + waiting, word)


def _unavailable(stage: str, reason: str, state: str) -> StageUnavailable:
    remedy = "Send the request again later"
    if stage == "stage2":
        remedy += ", or with graceful_fallback=true for what Stage 1 makes"
    return StageUnavailable(
        f"{stage} can not run: {reason}. {remedy}",
        code=f"{stage}_unavailable",
        reason=reason,
        state=state,
    )


def _verdict(stage: str, error: BaseException) -> Exception:
    """What an error of Ray or Serve means for the job."""
    if isinstance(error, DeploymentUnavailableError):
        return _unavailable(stage, "its deployment failed or was removed", "failed")
    if isinstance(error, BackPressureError):
        return _unavailable(stage, "too many calls are queued for it", "busy")
    if isinstance(error, RayTaskError):  # raised by the shell, not by the pipeline in its thread
        failure = Failed(f"{stage}_failed", f"{stage} failed: {error.cause}", retryable=True)
        return StageFailed(failure)
    if isinstance(error, RayActorError | WorkerCrashedError):
        return StageLost(f"a replica of {stage} died")
    return StageLost(f"{stage} was lost: {type(error).__name__}: {error}")
