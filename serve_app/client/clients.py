"""The two clients: the same operations, carried out by blocking or by awaiting."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx2

from serve_app.client import operations
from serve_app.client.effects import (
    Block,
    Call,
    Close,
    Effect,
    Emit,
    Pause,
    Play,
    Receive,
    Send,
    Steps,
    Streamed,
)
from serve_app.client.exchange import Patience
from serve_app.client.operations import Core
from serve_app.ingress.schemas import JobAnswer
from serve_app.jobs.protocol import JobEvent

P = ParamSpec("P")
T = TypeVar("T")
ItemT = TypeVar("ItemT")
Operation = Callable[Concatenate[Core, P], Steps[T]]

CONNECT_S = 10.0
ANSWER_S = 60.0


class _Common:
    """What does not depend on who carries effects out.

    :param url: of the service, with its path prefix where it has one.
    :param api_key: where the service wants one.
    """

    def __init__(self, url: str, api_key: str | None, patience: Patience | None) -> None:
        self._core = Core(patience=patience or Patience())
        self._settings: dict[str, Any] = {
            "base_url": url,
            "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
            "timeout": httpx2.Timeout(ANSWER_S, connect=CONNECT_S),
        }

    def _request(self, http: httpx2.Client | httpx2.AsyncClient, call: Call) -> httpx2.Request:
        timeout = httpx2.Timeout(call.read_timeout_s or ANSWER_S, connect=CONNECT_S)
        return http.build_request(
            call.method, call.path, headers=call.headers, timeout=timeout, **call.body
        )


def _blocking(operation: Operation[P, T]) -> Callable[Concatenate[Client, P], T]:
    """A method that returns an operation's result."""

    @functools.wraps(operation)
    def method(client: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        play = Play(operation(client._core, *args, **kwargs))
        for _ in client._items(play):
            pass
        return play.value

    return method


def _iterating(
    operation: Operation[P, None], kind: type[ItemT]
) -> Callable[Concatenate[Client, P], Iterator[ItemT]]:
    """A method that gives what an operation emits."""

    @functools.wraps(operation)
    def method(client: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[ItemT]:
        return client._items(Play(operation(client._core, *args, **kwargs)))

    return method


class Client(_Common):
    """A service, to be called from ordinary code. Threads may share it."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        patience: Patience | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, api_key, patience)
        self._http = httpx2.Client(transport=transport, **self._settings)

    submit = _blocking(operations.submit)
    job = _blocking(operations.job)
    jobs = _iterating(operations.jobs, JobAnswer)
    events = _iterating(operations.events, JobEvent)
    wait = _blocking(operations.wait)
    download = _blocking(operations.download)
    cancel = _blocking(operations.cancel)
    export = _blocking(operations.export)
    health = _blocking(operations.health)
    info = _blocking(operations.info)

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _items(self, play: Play[Any]) -> Iterator[Any]:
        streams: list[Streamed] = []
        try:
            while play.go_on():
                if isinstance(play.effect, Emit):
                    yield play.effect.item
                    continue
                try:
                    play.answer = self._outcome(play.effect, streams)
                except Exception as error:
                    play.error = error
        finally:
            for stream in streams:
                stream.response.close()

    def _outcome(self, effect: Effect, streams: list[Streamed]) -> Any:
        if isinstance(effect, Send):
            request = self._request(self._http, effect.call)
            response = self._http.send(request, stream=effect.stream)
            if not effect.stream:
                return response
            streams.append(Streamed(response, response.iter_bytes()))
            return streams[-1]
        if isinstance(effect, Receive):
            return next(effect.stream.pieces, None)
        if isinstance(effect, Close):
            return effect.stream.response.close()
        if isinstance(effect, Pause):
            return time.sleep(effect.seconds)
        assert isinstance(effect, Block)
        return effect.work()


def _awaiting(
    operation: Operation[P, T],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """A method that returns an operation's result."""

    @functools.wraps(operation)
    async def method(client: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        play = Play(operation(client._core, *args, **kwargs))
        async for _ in client._items(play):
            pass
        return play.value

    return method


def _aiterating(
    operation: Operation[P, None], kind: type[ItemT]
) -> Callable[Concatenate[AsyncClient, P], AsyncIterator[ItemT]]:
    """A method that gives what an operation emits."""

    @functools.wraps(operation)
    def method(client: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[ItemT]:
        return client._items(Play(operation(client._core, *args, **kwargs)))

    return method


class AsyncClient(_Common):
    """A service, to be called on an event loop."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        patience: Patience | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, api_key, patience)
        self._http = httpx2.AsyncClient(transport=transport, **self._settings)

    submit = _awaiting(operations.submit)
    job = _awaiting(operations.job)
    jobs = _aiterating(operations.jobs, JobAnswer)
    events = _aiterating(operations.events, JobEvent)
    wait = _awaiting(operations.wait)
    download = _awaiting(operations.download)
    cancel = _awaiting(operations.cancel)
    export = _awaiting(operations.export)
    health = _awaiting(operations.health)
    info = _awaiting(operations.info)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _items(self, play: Play[Any]) -> AsyncIterator[Any]:
        streams: list[Streamed] = []
        try:
            while play.go_on():
                if isinstance(play.effect, Emit):
                    yield play.effect.item
                    continue
                try:
                    play.answer = await self._outcome(play.effect, streams)
                except Exception as error:
                    play.error = error
        finally:
            for stream in streams:
                await stream.response.aclose()

    async def _outcome(self, effect: Effect, streams: list[Streamed]) -> Any:
        if isinstance(effect, Send):
            request = self._request(self._http, effect.call)
            response = await self._http.send(request, stream=effect.stream)
            if not effect.stream:
                return response
            streams.append(Streamed(response, response.aiter_bytes()))
            return streams[-1]
        if isinstance(effect, Receive):
            return await anext(effect.stream.pieces, None)
        if isinstance(effect, Close):
            return await effect.stream.response.aclose()
        if isinstance(effect, Pause):
            return await asyncio.sleep(effect.seconds)
        assert isinstance(effect, Block)
        return await asyncio.to_thread(effect.work)
