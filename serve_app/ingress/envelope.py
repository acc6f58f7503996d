"""What every answer has, whatever made it: a request id, headers for browsers, a trace, a count."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.metrics.catalogue import REQUESTS
from serve_app.metrics.recorder import Recorder
from serve_app.tracing import Tracer, checked_traceparent

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
CLIENT_GONE = 499  # nobody reads it; it tells an access log apart from success

# Data can neither run nor be framed. The pages are our own, with styles and scripts in them.
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self' blob:; worker-src 'self' blob:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
DOCS_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; "
    "style-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; "
    "img-src 'self' data: https://fastapi.tiangolo.com; base-uri 'none'; frame-ancestors 'none'"
)


def security_headers(path: str, content_type: str, *, encrypted: bool) -> Mapping[str, str]:
    """Headers that make a browser careful with an answer."""
    policy = DATA_POLICY
    if content_type.startswith("text/html"):
        policy = DOCS_POLICY if path.startswith("/docs") else PAGE_POLICY
    headers = {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Content-Security-Policy": policy,
    }
    if encrypted:
        headers["Strict-Transport-Security"] = "max-age=31536000"
    return headers


class Envelope:
    """ASGI middleware, the outermost.

    ``scope["state"]`` gets ``request_id`` and ``traceparent``; a route may set ``mode``.

    :param server_request_id: the id under which the server in front logs this request and which it
        returns by itself (Ray Serve); None where nobody does.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        recorder: Recorder,
        tracer: Tracer,
        server_request_id: Callable[[], str] | None,
    ) -> None:
        self.app = app
        self.recorder = recorder
        self.tracer = tracer
        self.server_request_id = server_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = Headers(scope=scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id = self._request_id(asked.get("x-request-id", ""))
        state["traceparent"] = checked_traceparent(asked.get("traceparent"))
        status = CLIENT_GONE

        async def completed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                kind = headers.get("content-type", "")
                encrypted = scope.get("scheme") == "https"
                for name, value in security_headers(
                    scope["path"], kind, encrypted=encrypted
                ).items():
                    headers.setdefault(name, value)
                if self.server_request_id is None:
                    headers["X-Request-ID"] = request_id
            await send(message)

        if scope["method"] != "POST":
            await self.app(scope, receive, completed)
            return
        span = self.tracer.start("ingress", state["traceparent"], request_id=request_id)
        state["traceparent"] = span.traceparent
        try:
            await self.app(scope, receive, completed)
        finally:
            outcome = outcome_of(status)
            mode = str(state.get("mode", "none"))
            self.recorder.record(REQUESTS, mode=mode, outcome=outcome)
            span.end(outcome if status >= 500 else None, status=status, mode=mode)

    def _request_id(self, asked: str) -> str:
        known = self.server_request_id() if self.server_request_id else asked
        return known if REQUEST_ID.fullmatch(known) else secrets.token_hex(8)


def outcome_of(status: int) -> str:
    """An HTTP status as the word that metrics count."""
    words = {202: "accepted", 429: "limited", CLIENT_GONE: "left", 503: "unavailable"}
    if status in words:
        return words[status]
    return "ok" if status < 400 else "refused" if status < 500 else "failed"
