"""How much one API key may ask: submissions a minute, and jobs that are not done.

Both are counted in the job store, so they hold across all replicas of the Gateway. Only submissions
(POST) count: looking at a job costs little, and its progress is better watched than polled.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import ServiceError
from serve_app.ingress.problems import problem_response
from serve_app.ingress.room import Room
from serve_app.jobs.protocol import KeyAllowance


class KeyLimits:
    """ASGI middleware: 429 for a key over its rate, and RateLimit headers for every submission.

    ``scope["state"]["jobs_at_once"]`` becomes the key's bound on unfinished jobs, which the store
    checks in the transaction that writes the job.
    """

    def __init__(self, app: ASGIApp, room: Callable[[], Room]) -> None:
        self.app = app
        self.room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope.setdefault("state", {}) if scope["type"] == "http" else {}
        owner = state.get("owner")
        if owner is None or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        room = self.room()
        limits = room.limits_of(owner)
        state["jobs_at_once"] = limits.at_once
        if limits.per_minute is None:
            await self.app(scope, receive, send)
            return
        try:
            allowance = await room.service.use_key(owner, limits.per_minute)
        except ServiceError as error:
            response = problem_response(
                503, error.code, error.message, request_id=state.get("request_id")
            )
            await response(scope, receive, send)
            return
        if not allowance.allowed:
            response = problem_response(
                429,
                "rate_limited",
                f"this API key has sent {allowance.limit} submissions within a minute, which is "
                f"all it may. Send the next one in {allowance.reset_s} s",
                request_id=state.get("request_id"),
                headers=rate_limit_headers(allowance),
                retry_after=allowance.reset_s,
                limit=allowance.limit,
            )
            await response(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(rate_limit_headers(allowance))
            await send(message)

        await self.app(scope, receive, told)


def rate_limit_headers(allowance: KeyAllowance) -> dict[str, str]:
    """``RateLimit`` and its policy, as draft-ietf-httpapi-ratelimit-headers has them."""
    return {
        "RateLimit-Policy": f'"submissions";q={allowance.limit};w=60',
        "RateLimit": f'"submissions";r={allowance.remaining};t={allowance.reset_s}',
    }
