"""A bound on request bodies, counted while they arrive, in front of everything that parses them.

Serve has no such bound and its proxy reads as fast as a client sends (serving.md section 6), so a
body that announces itself too large is refused before a byte of it is read, and one without a
``Content-Length`` is cut off at the bound.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.ingress.problems import problem_response

FORM_OVERHEAD = 64 << 10  # boundaries, part headers and option fields around the picture


class BodyLimit:
    """ASGI middleware: 413 for a body of more than ``max_bytes()`` (a picture) and its form."""

    def __init__(self, app: ASGIApp, max_bytes: Callable[[], int]) -> None:
        self.app = app
        self.max_bytes = max_bytes  # asked at every request: the limit may change while running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.max_bytes()
        bound = limit + FORM_OVERHEAD
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > bound:
            response = problem_response(
                413,
                "upload_too_large",
                _message(f"{int(announced):,} bytes", limit),
                request_id=scope.get("state", {}).get("request_id"),
                headers={"Connection": "close"},
            )
            await response(scope, receive, send)
            return

        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b"")) if message["type"] == "http.request" else 0
            if seen > bound:
                # FastAPI lets only this class through its body parser unchanged
                raise HTTPException(413, _message(f"over {bound:,} bytes", limit))
            return message

        await self.app(scope, counted, send)


def _message(size: str, limit: int) -> str:
    return (
        f"the request has {size}; a picture may have at most {limit:,} bytes. "
        "Send a smaller or more compressed picture"
    )
