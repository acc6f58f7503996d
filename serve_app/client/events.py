"""A job's events over as many connections as it takes: every event once, in order."""

from __future__ import annotations

import json
from typing import Any

import httpx2

from serve_app.client.effects import Call, Close, Emit, Receive, Steps
from serve_app.client.errors import ClientError, ServiceUnavailable
from serve_app.client.exchange import PassingError, Patience, exchange, no_answer, parsed, stream
from serve_app.ingress.schemas import JobAnswer
from serve_app.jobs.protocol import JobEvent

ENDS = frozenset({"result", "failed", "cancelled"})
SILENCE_S = 35.0  # the service sends a comment every 10 s; after that the connection is dead


def follow(job_id: str, patience: Patience, after: int = 0) -> Steps[None]:
    """Emit the events with ``seq > after`` up to the job's last one, reconnecting as needed.

    :raises ClientError: see errors.py; a service that is away is waited out like any other.
    """
    pauses = patience.pauses()
    while True:
        headers = {"Last-Event-ID": str(after), "Accept": "text/event-stream"}
        call = Call("GET", f"/jobs/{job_id}/events", headers, read_timeout_s=SILENCE_S)
        error: ClientError = ServiceUnavailable(
            f"the events of job {job_id} end again and again before the job has", code="no_answer"
        )
        seen = after
        try:
            streamed = yield from stream(call)
            decoder = EventDecoder()
            while (piece := (yield Receive(streamed))) is not None:
                for event in decoder.feed(piece):
                    if event.seq <= after:
                        continue
                    after = event.seq
                    yield Emit(event)
                    if event.kind in ENDS:
                        return
            yield Close(streamed)
            answer = yield from exchange(Call("GET", f"/jobs/{job_id}"), patience)
            if after == seen and parsed(JobAnswer, answer).status.final:
                return  # the caller had the last event before it asked
        except PassingError as passing:
            error = passing.error
        except httpx2.TransportError as lost:
            error = no_answer(call, lost)
        if after > seen:
            pauses = patience.pauses()  # it lives: what was waited out before is forgotten
        yield pauses.after(error)


class EventDecoder:
    """Bytes of an event stream, as they come, to events."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, str] = {}

    def feed(self, piece: bytes) -> list[JobEvent]:
        """The events that are whole now."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        found = []
        for line in lines:
            text = line.decode().rstrip("\r")
            if not text:
                if "data" in self._fields:
                    found.append(_event(self._fields))
                self._fields = {}
            elif not text.startswith(":"):
                name, _, value = text.partition(":")
                value = value.removeprefix(" ")
                if name == "data" and "data" in self._fields:
                    value = f"{self._fields['data']}\n{value}"
                self._fields[name] = value
        return found


def _event(fields: dict[str, str]) -> JobEvent:
    body: dict[str, Any] = json.loads(fields["data"])
    time = float(body.pop("time", 0.0))
    return JobEvent(seq=int(fields["id"]), time=time, kind=fields.get("event", ""), body=body)
