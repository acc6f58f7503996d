"""What an operation of the client asks its driver for, so that it is written once.

An operation (operations.py, events.py, download.py) is a generator: it yields effects, is sent
their outcomes, and returns its result. It does no input or output itself. ``Client`` carries the
effects out by blocking, ``AsyncClient`` by awaiting; what to send, when to send it again and what
an answer means is the operation's business alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx2

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """One HTTP request, as the keywords of httpx's ``build_request``."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)  # data, files, json or params
    read_timeout_s: float | None = None


@dataclass(frozen=True)
class Send:
    """Send a request. Outcome: the whole response, or a :class:`Streamed` one.

    Fails with ``httpx2.TransportError``.
    """

    call: Call
    stream: bool = False


@dataclass
class Streamed:
    """A response whose body is still on its way; ``pieces`` belongs to the driver."""

    response: httpx2.Response
    pieces: Any


@dataclass(frozen=True)
class Receive:
    """Wait for a body's next bytes. Outcome: bytes, or None at its end.

    Fails with ``httpx2.TransportError``.
    """

    stream: Streamed


@dataclass(frozen=True)
class Close:
    """Let go of a response before its end. What is open at an operation's end is closed anyway."""

    stream: Streamed


@dataclass(frozen=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class Block:
    """Work of the disk. Outcome: what it returns."""

    work: Callable[[], Any]


@dataclass(frozen=True)
class Emit:
    """Hand an item to whoever iterates over the operation."""

    item: Any


Effect = Send | Receive | Close | Pause | Block | Emit
Steps = Generator[Effect, Any, T]


class Play(Generic[T]):
    """An operation on its way: its next effect, and the place for that effect's outcome."""

    effect: Effect
    value: T

    def __init__(self, steps: Steps[T]) -> None:
        self._steps = steps
        self.answer: Any = None
        self.error: Exception | None = None

    def go_on(self) -> bool:
        """Hand in the last outcome; False: the operation has ended with ``value``."""
        answer, error = self.answer, self.error
        self.answer = self.error = None
        try:
            if error is not None:
                self.effect = self._steps.throw(error)
            else:
                self.effect = self._steps.send(answer)
        except StopIteration as stop:
            self.value = stop.value
            return False
        return True


def listening(
    steps: Steps[T], heard: Callable[[Any], None], before_each: Callable[[], None]
) -> Steps[T]:
    """An emitting operation inside another: its items go to ``heard`` instead.

    :param before_each: called before every effect; what it raises ends the operation.
    """
    play = Play(steps)
    while play.go_on():
        if isinstance(play.effect, Emit):
            heard(play.effect.item)
            continue
        before_each()
        try:
            play.answer = yield play.effect
        except Exception as error:
            play.error = error
    return play.value
