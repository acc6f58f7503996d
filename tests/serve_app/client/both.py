"""Both clients behind one face: a test says what to do once and runs it on each."""

from __future__ import annotations

import asyncio
from typing import Any

from serve_app.client import AsyncClient, Client, Patience

IMPATIENT = Patience(first_s=0.02, longest_s=0.1, in_all_s=3.0)
ITERATED = ("jobs", "events")


class Blocking:
    """The methods of ``Client``; what is iterated over comes as a list."""

    def __init__(self, url: str, **settings: Any) -> None:
        self._client = Client(url, **{"patience": IMPATIENT, **settings})

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name in ITERATED:
            return lambda *args, **kwargs: list(method(*args, **kwargs))
        return method

    def finish(self) -> None:
        self._client.close()


class Awaiting:
    """The same for ``AsyncClient``, on an event loop of its own."""

    def __init__(self, url: str, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(url, **{"patience": IMPATIENT, **settings})

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        async def listed(*args: Any, **kwargs: Any) -> list[Any]:
            return [item async for item in method(*args, **kwargs)]

        chosen = listed if name in ITERATED else method
        return lambda *args, **kwargs: self._loop.run_until_complete(chosen(*args, **kwargs))

    def finish(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
