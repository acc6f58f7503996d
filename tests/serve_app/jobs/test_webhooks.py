"""serve_app/jobs/webhooks.py against a receiver that verifies, refuses, closes and redirects."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from receiver import Receiver

from deployments.contracts import GenerationOptions
from deployments.errors import InputError
from serve_app.address_guard import check_reachable
from serve_app.jobs.claims import ClaimStore
from serve_app.jobs.deliveries import Delivery, DeliveryStore
from serve_app.jobs.protocol import JobRequest, JobStatus, JobTerms, WebhookReport
from serve_app.jobs.runner import Stages
from serve_app.jobs.service import JobRoom
from serve_app.jobs.stages import StageCaller
from serve_app.jobs.store import JobStore
from serve_app.jobs.tables import Database
from serve_app.jobs.webhooks import Told, WebhookCarrier, WebhookSender
from serve_app.options import options_as_json
from serve_app.settings import FrontArgs
from serve_app.storage import open_storage

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes ...").decode()
OTHER = "whsec_" + base64.b64encode(b"the secret that comes after it ..").decode()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver(SECRET)
    yield made
    made.close()


def sender(*secrets: str, **settings: Any) -> WebhookSender:
    return WebhookSender(
        secrets or (SECRET,), **{"timeout_s": 5.0, "allow_private": True, **settings}
    )


def message_to(url: str, attempt: int = 1) -> Delivery:
    body = {"job_id": "a", "seq": 3, "time": 1_700_000_000.25, "event": "result", "n": "ä"}
    return Delivery("msg_1", url, "result", body, attempt)


async def test_a_message_verifies_and_says_what_happened(receiver: Receiver) -> None:
    told = await sender().send(message_to(receiver.url))
    assert told == Told(204)
    assert receiver.ids == ["msg_1"]
    assert receiver.payloads == [
        {
            "type": "job.result",
            "timestamp": "2023-11-14T22:13:20.250Z",
            "data": {"job_id": "a", "seq": 3, "event": "result", "n": "ä"},
        }
    ]


async def test_a_wrong_secret_does_not_verify(receiver: Receiver) -> None:
    told = await sender(OTHER).send(message_to(receiver.url))
    assert (told.status, told.taken, receiver.refused) == (401, False, 1)


async def test_a_secret_is_replaced_without_a_gap(receiver: Receiver) -> None:
    assert (await sender(OTHER, SECRET).send(message_to(receiver.url))).taken


async def test_what_a_receiver_may_answer(receiver: Receiver) -> None:
    receiver.script = [(500, {}), (429, {"Retry-After": "7"}), None]
    send = sender().send
    assert await send(message_to(receiver.url)) == Told(500, "answered 500")
    assert await send(message_to(receiver.url)) == Told(429, "answered 429", 7.0)
    closed = await send(message_to(receiver.url))
    assert closed.status is None
    assert "RemoteProtocolError" in closed.error


async def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.script = [(302, {"Location": receiver.url})]
    told = await sender().send(message_to(receiver.url))
    assert (told.status, told.taken, len(receiver.payloads)) == (302, False, 1)


async def test_nobody_there_and_nobody_who_answers() -> None:
    assert "ConnectError" in (await sender().send(message_to("http://127.0.0.1:9/x"))).error
    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    told = await sender(timeout_s=0.2).send(message_to(f"http://127.0.0.1:{port}/x"))
    assert told.error == "no answer within 0.2 s"
    for writer in held:
        writer.close()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("url", ["http://127.0.0.1:80/x", "http://inside.example/x"])
async def test_the_guard_holds_when_it_is_delivered(url: str) -> None:
    async def resolver(host: str, port: int) -> list[str]:
        return ["10.0.0.7"] if host == "inside.example" else [host]

    told = await sender(allow_private=False, resolver=resolver).send(message_to(url))
    assert told.status is None
    assert "webhook_url leads to" in told.error
    with pytest.raises(InputError, match="webhook_url leads to") as caught:
        await check_reachable(url, resolver, allow_private=False, field="webhook_url")
    assert caught.value.code == "url_forbidden"


async def test_a_name_without_an_address_is_refused_beforehand() -> None:
    async def resolver(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    with pytest.raises(InputError, match="without an address") as caught:
        await check_reachable(
            "https://nowhere.example/x", resolver, allow_private=False, field="webhook_url"
        )
    assert caught.value.code == "url_unreachable"


# With the table: retried, over restarts, told at least once


class Bench:
    """Jobs with a webhook at the receiver, and carriers that come and go."""

    def __init__(
        self, database: Database, store: JobStore, claims: ClaimStore, receiver: Receiver
    ) -> None:
        self.deliveries = DeliveryStore(database)
        self.store, self.claims, self.receiver = store, claims, receiver
        self.terms = JobTerms(webhook_url=receiver.url, webhook_events=("queued", "result"))

    def carrier(self, name: str, *delays: float) -> WebhookCarrier:
        return WebhookCarrier(name, self.deliveries, sender(), delays)

    def finish(self) -> None:
        while (claim := self.claims.claim("r", 30)) is not None:
            self.claims.finish(claim.job, claim.fence, JobStatus.SUCCEEDED, ("result", {}))

    def report(self, job: str) -> WebhookReport:
        report = self.store.get(job).webhook
        assert report is not None
        return report

    async def carried(self, carrier: WebhookCarrier, until: Callable[[], bool]) -> None:
        """Let a carrier run until something is so, then end it as a replica ends."""
        task = asyncio.create_task(carrier.carry_for_ever())
        deadline = time.monotonic() + 20
        while not await asyncio.to_thread(until):
            assert time.monotonic() < deadline, "it never came to that"
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def all_delivered(self, *jobs: str) -> bool:
        told = [entry for job in jobs for entry in self.report(job).deliveries]
        return all(entry.delivered_at is not None for entry in told)


@pytest.fixture
def bench(database: Database, store: JobStore, claims: ClaimStore, receiver: Receiver) -> Bench:
    return Bench(database, store, claims, receiver)


async def test_failures_are_retried_until_the_message_is_there(
    bench: Bench, submit: Callable[..., object]
) -> None:
    bench.receiver.script = [(500, {}), None, (503, {}), (302, {"Location": "/"})]
    submit("a", terms=bench.terms)
    bench.finish()
    await bench.carried(bench.carrier("x", 0.05, 0.05, 0.1, 0.1), lambda: bench.all_delivered("a"))
    report = bench.report("a")
    assert sum(entry.attempts for entry in report.deliveries) == 6
    assert len(bench.receiver.ids) == 6
    assert set(bench.receiver.ids) == {entry.id for entry in report.deliveries}
    kinds = [payload["type"] for payload in bench.receiver.payloads]
    assert set(kinds) == {"job.queued", "job.result"}


async def test_a_successor_goes_on_with_the_attempts_of_its_predecessor(
    bench: Bench, submit: Callable[..., object]
) -> None:
    submit("a", terms=bench.terms.model_copy(update={"webhook_events": ("queued",)}))
    bench.receiver.script = [(500, {}), (500, {})]
    first, second = bench.carrier("first", 0.2, 0.2, 0.2), bench.carrier("second", 0.2, 0.2, 0.2)
    await bench.carried(first, lambda: len(bench.receiver.ids) >= 1)
    await bench.carried(second, lambda: bench.all_delivered("a"))
    (entry,) = bench.report("a").deliveries
    assert entry.attempts == 3 == len(bench.receiver.ids)
    assert len(set(bench.receiver.ids)) == 1


async def test_a_carrier_that_dies_with_a_message_in_hand_loses_nothing(
    bench: Bench, submit: Callable[..., object]
) -> None:
    submit("a", terms=bench.terms)
    taken = bench.deliveries.take("dead", lease_s=0.5, limit=10)  # and never writes anything
    assert len(taken) == 1
    await bench.carried(bench.carrier("next", 0.1), lambda: bench.all_delivered("a"))
    assert bench.receiver.ids == [taken[0].id]


async def test_two_carriers_share_the_work_and_tell_nothing_twice(
    bench: Bench, submit: Callable[..., object]
) -> None:
    jobs = [f"job{number}" for number in range(20)]
    for job in jobs:
        submit(job, terms=bench.terms)
    bench.finish()
    done = lambda: bench.all_delivered(*jobs)  # noqa: E731
    await asyncio.gather(
        bench.carried(bench.carrier("one"), done), bench.carried(bench.carrier("two"), done)
    )
    assert len(bench.receiver.ids) == 40 == len(set(bench.receiver.ids))


async def test_it_is_given_up_after_the_last_delay_and_at_once_where_it_is_gone(
    bench: Bench, submit: Callable[..., object]
) -> None:
    only_queued = bench.terms.model_copy(update={"webhook_events": ("queued",)})
    submit("a", terms=only_queued)
    bench.receiver.script = [(500, {})] * 3

    def given_up(job: str) -> Callable[[], bool]:
        return lambda: all(entry.next_at is None for entry in bench.report(job).deliveries)

    await bench.carried(bench.carrier("x", 0.05, 0.05), given_up("a"))
    (entry,) = bench.report("a").deliveries
    assert (entry.attempts, entry.delivered_at, entry.last_error) == (3, None, "answered 500")

    submit("b", terms=only_queued)
    bench.receiver.script = [(410, {})]
    await bench.carried(bench.carrier("x", 0.05, 0.05), given_up("b"))
    (entry,) = bench.report("b").deliveries
    assert (entry.attempts, entry.last_status) == (1, 410)


async def test_a_receiver_may_ask_for_more_time(bench: Bench) -> None:
    carrier = bench.carrier("x", 5, 30, 120)
    assert 5 <= (carrier._again(1, Told(500)) or 0) <= 5.5
    assert carrier._again(1, Told(429, retry_after_s=60)) == 60
    assert carrier._again(1, Told(429, retry_after_s=10**6)) == 120
    assert carrier._again(4, Told(500)) is None


async def test_rooms_tell_what_happens_to_a_job_over_a_restart(
    database_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    @contextlib.asynccontextmanager
    async def room(name: str) -> AsyncIterator[JobRoom]:
        """Without any stage: its jobs fail, which is a thing to tell."""
        stages = ("preprocess", "stage1", "stage2", "preview", "export")
        opened = JobRoom(
            name,
            FrontArgs(
                webhook_secret=SECRET,
                webhook_delays_s=(0.3, 0.3, 0.3),
                allow_private_urls=True,
                unknown_wait_s=0.2,
            ),
            databases[name],
            storage,
            Stages(**{stage: StageCaller(stage, lambda *order: order) for stage in stages}),
            look=dict,
            applications=dict.fromkeys(stages),
        )
        opened.start()
        yield opened
        opened.check()
        await opened.drain(0)

    databases = {name: Database(database_url) for name in ("first", "second")}
    storage = open_storage(tmp_path / "jobs")
    storage.write("a/input.png", b"picture")
    request = JobRequest(
        job_id="a",
        input_path="a/input.png",
        options=options_as_json(GenerationOptions()),
        terms=JobTerms(webhook_url=receiver.url, webhook_events=("queued", "failed")),
    )
    receiver.script = [(500, {})]
    async with room("first") as first:
        await first.submit(request)
        while not receiver.ids:
            await asyncio.sleep(0.02)
    async with room("second") as second:
        for _ in range(200):
            webhook = (await second.get("a")).webhook
            assert webhook is not None
            told = [entry.event for entry in webhook.deliveries if entry.delivered_at]
            if sorted(told) == ["failed", "queued"]:
                break
            await asyncio.sleep(0.05)
    assert sorted(told) == ["failed", "queued"]
    assert {payload["type"] for payload in receiver.payloads} == {"job.queued", "job.failed"}
    assert {entry.id for entry in webhook.deliveries} == set(receiver.ids)
    assert len(receiver.ids) >= 3  # one attempt was refused
    await asyncio.get_running_loop().shutdown_default_executor()  # what threads still ask
    for database in databases.values():
        database.close()
