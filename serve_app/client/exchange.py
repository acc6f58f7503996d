"""One question, one answer, however often the question has to be asked.

Every request of this client may be sent twice: reading and cancelling by their nature, submitting
because it always carries an Idempotency-Key. So a lost connection, 429, 503 and whatever a proxy
says in the service's place are waited out, as long as the service's ``Retry-After`` wants.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel

from serve_app.client.effects import Call, Close, Pause, Receive, Send, Steps, Streamed
from serve_app.client.errors import (
    ClientError,
    ServiceFailed,
    ServiceUnavailable,
    TooBusy,
    error_of,
    is_problem,
)

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True)
class Patience:
    """How a client waits out a service that is away or full."""

    first_s: float = 0.5  # pause before the second try; it doubles with every further one
    longest_s: float = 15.0  # no pause is longer, unless the service asks for it
    in_all_s: float = 180.0  # pauses of one request together; beyond it the error is raised

    def pauses(self) -> Pauses:
        return Pauses(self)


@dataclass
class Pauses:
    """The pauses of one request."""

    patience: Patience
    _spent: float = 0.0
    _next: float = field(init=False)

    def __post_init__(self) -> None:
        self._next = self.patience.first_s

    def after(self, error: ClientError) -> Pause:
        """The pause before the next try.

        :raises ClientError: the error, when patience has run out.
        """
        # Half of it is left to chance, or all clients of a service that was away return at once.
        pause = max(self._next * random.uniform(0.5, 1.0), error.retry_after or 0.0)
        if self._spent + pause > self.patience.in_all_s:
            raise error
        self._spent += pause
        self._next = min(2 * self._next, self.patience.longest_s)
        return Pause(pause)


def exchange(call: Call, patience: Patience) -> Steps[httpx2.Response]:
    """The answer to a request, its body read.

    :raises ClientError: see errors.py.
    """
    pauses = patience.pauses()
    while True:
        try:
            response: httpx2.Response = yield Send(call)
        except httpx2.TransportError as lost:
            error: ClientError = no_answer(call, lost)
        else:
            if response.status_code < 400:
                return response
            error = error_of(response)
            if not may_pass(error, response):
                raise error
        yield pauses.after(error)


def stream(call: Call) -> Steps[Streamed]:
    """The answer to a request with its body on its way; one try.

    :raises ClientError: for a status of 400 and above.
    :raises httpx2.TransportError: when the connection is lost.
    """
    streamed: Streamed = yield Send(call, stream=True)
    response = streamed.response
    if response.status_code < 400:
        return streamed
    body = b""
    while piece := (yield Receive(streamed)):
        body += piece
    yield Close(streamed)
    whole = httpx2.Response(response.status_code, headers=response.headers, content=body)
    error = error_of(whole)
    raise PassingError(error) if may_pass(error, whole) else error


class PassingError(Exception):
    """A refusal that is worth another try; ``error`` is what to raise when there is none."""

    def __init__(self, error: ClientError) -> None:
        super().__init__(error.message)
        self.error = error


def may_pass(error: ClientError, response: httpx2.Response) -> bool:
    """Whether the same request may be answered otherwise a moment later."""
    if isinstance(error, TooBusy | ServiceUnavailable):
        return True
    # A bare 500 comes from Serve, in the place of a front replica that died with the request.
    return isinstance(error, ServiceFailed) and not is_problem(response)


def no_answer(call: Call, lost: httpx2.TransportError) -> ServiceUnavailable:
    """What a request without an answer is to the caller."""
    why = f"{type(lost).__name__}: {lost}".rstrip(": ")
    return ServiceUnavailable(
        f"no answer to {call.method} {call.path} ({why}). Check the address, and that the service "
        "runs"
    )


def parsed(model: type[ModelT], response: httpx2.Response) -> ModelT:
    """An answer as its model. A newer service may say more than this client knows.

    :raises ServiceFailed: ``answer_unknown`` when it is no answer of this API.
    """
    try:
        return model.model_validate(json.loads(response.content), extra="ignore")
    except ValueError as error:
        raise ServiceFailed(
            f"the answer to {response.request.url.path} is not one of this API: {error}. "
            "Check the address, and the versions of client and service",
            code="answer_unknown",
            status=response.status_code,
        ) from error


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that say something."""
    return {name: value for name, value in values.items() if value is not None}
