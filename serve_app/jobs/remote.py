"""The jobs room seen through a deployment handle: what the Gateway holds as its ``JobService``.

Every call has a bound of its own, since Serve has none for "no replica can take this", and failures
of the room come back as what they were.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from deployments.errors import ServiceError, SyncHumanError
from serve_app.jobs.protocol import (
    JobEvent,
    JobPage,
    JobQuery,
    JobRequest,
    JobView,
    KeyAllowance,
    ServiceState,
)

ANSWER_WITHIN_S = 15.0  # a killed Jobs replica has a successor after about 4 s
EVENTS_WAIT_S = 10.0


class RemoteJobs:
    """Implements ``JobService`` on a handle of the ``Jobs`` deployment."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def submit(self, request: JobRequest) -> JobView:
        view: JobView = await self._call("submit", request)
        return view

    async def get(self, job_id: str, owner: str | None = None) -> JobView:
        view: JobView = await self._call("get", job_id, owner)
        return view

    async def page(self, query: JobQuery) -> JobPage:
        page: JobPage = await self._call("page", query)
        return page

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[JobEvent]:
        """By long polls and not by one stream, so that a restart of the room cuts nothing."""
        over = False
        while not over:
            found, over = await self._call(
                "events_after", job_id, after, EVENTS_WAIT_S, within=EVENTS_WAIT_S + ANSWER_WITHIN_S
            )
            for event in found:
                after = event.seq
                yield event

    async def cancel(self, job_id: str, owner: str | None = None) -> JobView:
        return await self._in_any_case("cancel", job_id, owner)

    async def remove(self, job_id: str, owner: str | None = None) -> JobView:
        return await self._in_any_case("remove", job_id, owner)

    async def _in_any_case(self, method: str, *args: Any) -> JobView:
        """A call that goes through even when the request that asks for it is being cancelled.

        Serve cancels the calls that a cancelled request has made, and the usual reason for this
        one is a client that just left: so it is made in a context that belongs to no request.
        """
        calling = contextvars.Context().run(asyncio.ensure_future, self._call(method, *args))
        view: JobView = await asyncio.shield(calling)
        return view

    async def use_key(self, owner: str, per_minute: int) -> KeyAllowance:
        allowance: KeyAllowance = await self._call("use_key", owner, per_minute)
        return allowance

    async def state(self) -> ServiceState:
        state: ServiceState = await self._call("state")
        return state

    async def _call(self, method: str, *args: Any, within: float = ANSWER_WITHIN_S) -> Any:
        """Call the room. A call that meets a dying replica is made once more: all are idempotent
        (``submit`` finds its own job again).

        :raises ServiceError: ``store_unavailable`` when no replica answers in time.
        """
        deadline = asyncio.get_running_loop().time() + within
        while True:
            response = getattr(self._handle, method).remote(*args)
            left = deadline - asyncio.get_running_loop().time()
            try:
                return await asyncio.wait_for(_result(response), max(left, 0.1))
            except RayTaskError as error:
                if isinstance(error.cause, SyncHumanError):
                    raise error.cause from None
                raise
            except asyncio.TimeoutError:
                raise _away(f"no answer within {within:.0f} s") from None
            except (RayError, RayServeException) as error:
                if asyncio.get_running_loop().time() + 1.0 > deadline:
                    raise _away(type(error).__name__) from error
                await asyncio.sleep(0.5)
            finally:
                with contextlib.suppress(Exception):
                    response.cancel()


async def _result(response: Any) -> Any:
    return await response


def _away(why: str) -> ServiceError:
    return ServiceError(
        f"the jobs room does not answer ({why}). It is starting or being replaced: try again",
        code="store_unavailable",
    )
