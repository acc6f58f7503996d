"""API keys: who may come in, known by hashes only.

The file has one key a line: the SHA-256 of the key in hexadecimal, then optionally a name; ``#``
begins a comment. It is read again when it changes, so a key is taken back without a restart.

    printf %s "$KEY" | sha256sum
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import ServiceError
from serve_app.ingress.problems import problem_response

OPEN_PATHS = frozenset({"/", "/health", "/docs", "/openapi.json", "/docs/oauth2-redirect"})
HASH = re.compile(r"[0-9a-f]{64}")


class KeyFile:
    """The hashes in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at: tuple[int, int] | None = None
        self._hashes: tuple[str, ...] = ()

    def owner_of(self, key: str) -> str | None:
        """The hash of a key that the file has, found in a time that does not depend on it.

        :raises ServiceError: ``keys_unreadable`` when the file can not be read: nobody comes in.
        """
        given = hashlib.sha256(key.encode()).hexdigest()
        found = [known for known in self._current() if hmac.compare_digest(known, given)]
        return given if found else None

    def _current(self) -> tuple[str, ...]:
        try:
            facts = self._path.stat()
            stamp = (facts.st_mtime_ns, facts.st_size)
            if stamp != self._read_at:
                text = self._path.read_text(encoding="utf-8")
                words = [line.split("#")[0].split() for line in text.splitlines()]
                self._hashes = tuple(
                    parts[0].lower()
                    for parts in words
                    if parts and HASH.fullmatch(parts[0].lower())
                )
                self._read_at = stamp
        except (OSError, ValueError) as error:
            raise ServiceError(
                f"the file of API keys can not be read ({type(error).__name__}). "
                "The operator has to repair api_keys_file",
                code="keys_unreadable",
            ) from error
        return self._hashes


class KeyGuard:
    """ASGI middleware: 401 without a known key, ``Authorization: Bearer`` or ``X-API-Key``.

    ``scope["state"]["owner"]`` becomes the key's hash. Without a key file everybody comes in.
    """

    def __init__(self, app: ASGIApp, keys: Callable[[], KeyFile | None]) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        keys = self.keys() if scope["type"] == "http" else None
        if keys is None or scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        kind, _, token = headers.get("authorization", "").partition(" ")
        key = token.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        state = scope.setdefault("state", {})
        status, code, told = 401, "key_missing", "this service wants an API key and got none"
        if key:
            try:
                owner = keys.owner_of(key)
            except ServiceError as error:
                owner, status, code, told = None, 503, error.code, error.message
            else:
                code, told = "key_unknown", "the API key is not one of this service's"
            if owner is not None:
                state["owner"] = owner
                await self.app(scope, receive, send)
                return
        response = problem_response(
            status,
            code,
            f"{told}. Send it as Authorization: Bearer KEY, or as X-API-Key",
            request_id=state.get("request_id"),
            headers={"WWW-Authenticate": "Bearer"} if status == 401 else None,
        )
        await response(scope, receive, send)
