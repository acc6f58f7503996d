"""Telling jobs' webhooks what happened, signed by Standard Webhooks, until they have it.

A message that was not taken (no connection, no 2xx) comes again after growing delays, which lie in
the table and so outlive every restart. Redirects are not followed, and every connection goes
through the same guard as ``image_url``. 410 means that the receiver wants no more of this message.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import anyio
import httpcore2
from httpcore2 import AsyncConnectionPool
from standardwebhooks import Webhook

from deployments.errors import ServiceError, SyncHumanError
from deployments.stage_report import log_fields
from serve_app.address_guard import (
    GuardedBackend,
    Resolver,
    ascii_url,
    check_url,
    host_of,
    system_resolver,
)
from serve_app.jobs.deliveries import Delivery, DeliveryStore
from serve_app.metrics.catalogue import WEBHOOKS
from serve_app.metrics.recorder import NoRecorder, Recorder

log = logging.getLogger("ray.serve")

AT_ONCE = 16
LOOK_FOR_DUE_S = 0.5
STORE_AWAY_PAUSE_S = 1.0
GONE = 410
MAX_ERROR = 300  # characters of an error in the log
FIELD = "webhook_url"


@dataclass(frozen=True)
class Told:
    """What came of one attempt: an HTTP status, or the error in its place."""

    status: int | None
    error: str = ""
    retry_after_s: float = 0.0

    @property
    def taken(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class WebhookSender:
    """Makes and sends one message. Free of the table.

    :param secrets: ``whsec_`` texts; each signs, so that one can be replaced without a gap.
    """

    def __init__(
        self,
        secrets: Sequence[str],
        *,
        timeout_s: float,
        allow_private: bool = False,
        resolver: Resolver = system_resolver,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._signers = [Webhook(secret) for secret in secrets]
        self.timeout_s = timeout_s
        self._backend = GuardedBackend(resolver, allow_private=allow_private, field=FIELD)
        self._ssl = ssl_context

    async def send(self, delivery: Delivery) -> Told:
        """Make one attempt."""
        content = message(delivery)
        now = datetime.now(timezone.utc)
        signatures = [sign.sign(delivery.id, now, content.decode()) for sign in self._signers]
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "synchuman-serve",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
        try:
            with anyio.fail_after(self.timeout_s):
                return await self._post(delivery.url, headers, content)
        except (TimeoutError, httpcore2.TimeoutException):
            return Told(None, f"no answer within {self.timeout_s:g} s")
        except SyncHumanError as error:  # the guard
            return Told(None, error.message)
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
            return Told(None, f"{type(error).__name__}: {error}".rstrip(": "))

    async def _post(self, url: str, headers: dict[str, str], content: bytes) -> Told:
        check_url(url, field=FIELD)
        url = ascii_url(url, field=FIELD)
        sent = {"Host": host_of(url), **headers, "Content-Length": str(len(content))}
        async with (
            AsyncConnectionPool(
                ssl_context=self._ssl, network_backend=self._backend, max_connections=1
            ) as pool,
            pool.stream("POST", url, headers=list(sent.items()), content=content) as response,
        ):  # what it says beside its status is nobody's business here
            answered = {name.lower(): value for name, value in response.headers}
            after = answered.get(b"retry-after", b"")
            wait = float(after) if after.isdigit() else 0.0
            error = "" if 200 <= response.status < 300 else f"answered {response.status}"
            return Told(response.status, error, wait)


class WebhookCarrier:
    """One replica's share of the deliveries."""

    def __init__(
        self,
        name: str,
        store: DeliveryStore,
        sender: WebhookSender,
        delays_s: Sequence[float],
        recorder: Recorder | None = None,
    ) -> None:
        self._name = name
        self._store = store
        self._sender = sender
        self._delays_s = tuple(delays_s)
        self._recorder = recorder or NoRecorder()
        # Time for the attempt itself and for writing down what came of it.
        self._lease_s = 2 * sender.timeout_s + 10.0

    async def carry_for_ever(self) -> None:
        """Deliver what is due, several at once; a slow receiver does not hold up the others."""
        under_way: set[asyncio.Task[None]] = set()
        try:
            while True:
                due: list[Delivery] = []
                if room := AT_ONCE - len(under_way):
                    try:
                        due = await asyncio.to_thread(
                            self._store.take, self._name, self._lease_s, room
                        )
                    except ServiceError as error:
                        log.error("%s: no webhooks to be had: %s", self._name, error)
                        await asyncio.sleep(STORE_AWAY_PAUSE_S)
                for delivery in due:
                    task = asyncio.create_task(self.carry(delivery))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                await asyncio.sleep(LOOK_FOR_DUE_S if not due else 0.0)
        finally:
            if under_way:  # a leaving replica ends what it has begun, or it is told twice
                await asyncio.wait(under_way)

    async def carry(self, delivery: Delivery) -> None:
        """One attempt, and the note of it. A note that is lost makes another attempt."""
        told = await self._sender.send(delivery)
        try:
            if told.taken:
                assert told.status is not None
                self._recorder.record(WEBHOOKS, outcome="delivered")
                await asyncio.to_thread(self._store.delivered, delivery, self._name, told.status)
                return
            again = self._again(delivery.attempt, told)
            self._recorder.record(WEBHOOKS, outcome="given_up" if again is None else "retry")
            log.warning(
                "webhook %s, attempt %d: %s; %s",
                delivery.id,
                delivery.attempt,
                told.error,
                "given up" if again is None else f"again in {again:.0f} s",
                extra=log_fields(job_id=delivery.body.get("job_id")),
            )
            await asyncio.to_thread(
                self._store.failed,
                delivery,
                self._name,
                status=told.status,
                error=told.error[:MAX_ERROR],
                again_in_s=again,
            )
        except ServiceError as error:
            log.error("webhook %s: its outcome is not written: %s", delivery.id, error)

    def _again(self, attempt: int, told: Told) -> float | None:
        """Seconds to the next attempt, a little by chance so that many do not come at once."""
        if told.status == GONE or attempt > len(self._delays_s):
            return None
        delay = self._delays_s[attempt - 1] * random.uniform(1.0, 1.1)
        return max(delay, min(told.retry_after_s, self._delays_s[-1]))


def message(delivery: Delivery) -> bytes:
    """The payload: the same bytes for every attempt."""
    told: dict[str, Any] = {name: value for name, value in delivery.body.items() if name != "time"}
    time = datetime.fromtimestamp(delivery.body["time"], timezone.utc)
    payload = {
        "type": f"job.{delivery.event}",
        "timestamp": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": told,
    }
    return json.dumps(payload, separators=(",", ":"), sort_keys=True).encode()
