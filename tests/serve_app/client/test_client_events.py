"""serve_app/client/events.py: every event once over connections that break."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from live_service import LiveService

from serve_app.client import ServiceUnavailable
from serve_app.client.events import EventDecoder


def test_a_cut_connection_is_made_again_where_it_broke(
    client: Any, service: LiveService, portrait: bytes
) -> None:
    job = client.submit(portrait).job_id
    client.wait(job)
    whole = client.events(job)
    assert [event.seq for event in whole] == [1, 2, 3]
    for cut in range(0, 260, 13):
        service.wire.cuts += [("/events", cut)]
        assert client.events(job) == whole
    asked = [head["last-event-id"] for head in service.wire.requests("GET", "/events")]
    assert {"0", "1", "2"} <= set(asked)


def test_a_stream_that_ends_too_early_is_asked_for_again(
    client: Any, service: LiveService, portrait: bytes
) -> None:
    service.jobs.script.cut_events = True
    job = client.submit(portrait).job_id
    assert [event.kind for event in client.events(job)] == ["queued", "step", "result"]


def test_events_after_one(client: Any, portrait: bytes) -> None:
    job = client.submit(portrait).job_id
    client.wait(job)
    assert [event.seq for event in client.events(job, after=1)] == [2, 3]
    assert client.events(job, after=3) == []


def test_a_service_that_is_full_is_waited_for(
    client: Any, service: LiveService, portrait: bytes
) -> None:
    job = client.submit(portrait).job_id
    problem = {"content-type": "application/problem+json"}
    service.wire.answers += [("/events", 503, problem, b'{"code": "store_unavailable"}')] * 2
    assert client.events(job)[-1].kind == "result"
    service.wire.answers += [("/events", 503, problem, b'{"code": "store_unavailable"}')] * 500
    with pytest.raises(ServiceUnavailable) as caught:
        client.events(job)
    assert caught.value.code == "store_unavailable"


def test_events_come_while_the_job_runs(client: Any, service: LiveService, portrait: bytes) -> None:
    service.do(lambda: setattr(service.jobs.script, "hold", asyncio.Event()))
    job = client.submit(portrait).job_id
    heard: list[str] = []

    def hear(event: Any) -> None:
        heard.append(event.kind)
        if event.kind == "step":  # nothing more comes until the test lets the job go on
            go_on = threading.Timer(0.1, lambda: service.do(service.jobs.script.hold.set))
            go_on.start()

    client.wait(job, on_event=hear)
    assert heard == ["queued", "step", "result"]


def test_the_decoder_takes_bytes_as_they_come() -> None:
    text = (
        b': still here\n\nid: 1\r\nevent: step\r\ndata: {"step": 1, "time": 2.5}\r\n\r\n'
        b'id: 2\nevent: result\ndata: {"note":\ndata: "\xc3\xa4"}\n\nevent: without data\n\n'
    )
    decoder = EventDecoder()
    found = [event for at in range(len(text)) for event in decoder.feed(text[at : at + 1])]
    assert [(event.seq, event.kind, event.body) for event in found] == [
        (1, "step", {"step": 1}),
        (2, "result", {"note": "ä"}),
    ]
    assert found[0].time == 2.5
