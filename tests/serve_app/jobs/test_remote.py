"""The Gateway's side of the jobs room, with a handle that follows a script."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from deployments.contracts import Mode
from deployments.errors import ServiceError
from serve_app.jobs.protocol import JobEvent, JobStatus, JobView
from serve_app.jobs.remote import RemoteJobs

VIEW = JobView(id="a", status=JobStatus.QUEUED, mode=Mode.OFFICIAL, options={}, created_at=1.0)
HANG = object()


class Response:
    """As Ray's: awaiting it gives the result or raises, cancelling a failed one raises again."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def __await__(self) -> Any:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        if self.outcome is HANG:
            await asyncio.Event().wait()
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def cancel(self) -> None:
        if isinstance(self.outcome, BaseException):
            raise self.outcome


class Handle:
    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, method: str) -> Any:
        handle = self

        class Method:
            def remote(self, *args: Any) -> Response:
                handle.calls.append((method, args))
                return Response(handle.outcomes.pop(0))

        return Method()


def task_error(cause: Exception) -> Any:
    return RayTaskError("get", "traceback", cause).as_instanceof_cause()


async def test_calls_go_through():
    handle = Handle(VIEW)
    assert await RemoteJobs(handle).get("a", "owner") == VIEW
    assert handle.calls == [("get", ("a", "owner"))]


async def test_errors_of_the_room_come_back_as_what_they_were():
    error = ServiceError("there is no job 'a'", code="not_found", job="a")
    with pytest.raises(ServiceError) as caught:
        await RemoteJobs(Handle(task_error(error))).get("a")
    assert type(caught.value) is ServiceError
    assert (caught.value.code, caught.value.detail) == ("not_found", {"job": "a"})


async def test_a_replica_that_dies_under_a_call_has_a_successor():
    handle = Handle(ActorDiedError(), VIEW)
    assert await RemoteJobs(handle).get("a") == VIEW
    assert len(handle.calls) == 2


@pytest.mark.parametrize("outcome", [HANG, ActorDiedError()])
async def test_nobody_there_is_an_answer_too(outcome):
    with pytest.raises(ServiceError, match="does not answer") as caught:
        await RemoteJobs(Handle(outcome))._call("get", "a", within=0.2)
    assert caught.value.code == "store_unavailable"


REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")


async def test_a_cancellation_belongs_to_no_request_and_outlives_its_caller():
    made_in = []

    class Watching(Handle):
        def __getattr__(self, method: str) -> Any:
            made_in.append((method, REQUEST.get()))
            return super().__getattr__(method)

    REQUEST.set("of a client that left")
    jobs = RemoteJobs(Watching(VIEW, VIEW))
    await jobs.get("a")
    asked = asyncio.create_task(jobs.cancel("a"))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await asyncio.sleep(0.01)
    assert made_in == [("get", "of a client that left"), ("cancel", "none")]


async def test_events_are_polled_until_they_are_over():
    event = [JobEvent(seq=n, time=1.0, kind="step") for n in (1, 2, 3)]
    handle = Handle(([event[0]], False), ([], False), (event[1:], True))
    seen = [found.seq async for found in RemoteJobs(handle).events("a")]
    assert seen == [1, 2, 3]
    assert [args[1] for _, args in handle.calls] == [0, 1, 1]
