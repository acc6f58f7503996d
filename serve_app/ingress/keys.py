"""API keys: who may come in, known by hashes only, and how much each may ask.

The file has one key a line: the SHA-256 of the key in hexadecimal, then optionally a name and
limits of its own in place of the service's; ``#`` begins a comment. It is read again when it
changes, so a key is taken back without a restart.

    printf %s "$KEY" | sha256sum
    9f86d081884c7d65...0f00a08 anna per_minute=10 at_once=2 # since May
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import ServiceError
from serve_app.ingress.problems import problem_response

log = logging.getLogger("ray.serve.synchuman.ingress")

OPEN_PATHS = frozenset({"/", "/health", "/docs", "/openapi.json", "/docs/oauth2-redirect"})
HASH = re.compile(r"[0-9a-f]{64}")
LIMIT = re.compile(r"(per_minute|at_once)=([1-9][0-9]{0,6}|none)")


@dataclass(frozen=True)
class Limits:
    """What one key may ask, None: no limit."""

    per_minute: int | None = None  # submissions
    at_once: int | None = None  # jobs that wait or run


@dataclass(frozen=True)
class KeyLine:
    """One key of the file. ``own`` holds only the limits that its line names."""

    hash: str
    own: dict[str, int | None]

    def limits(self, usual: Limits) -> Limits:
        """The limits of this key, where others have ``usual``."""
        return Limits(**{"per_minute": usual.per_minute, "at_once": usual.at_once, **self.own})


def read_keys(text: str) -> tuple[list[KeyLine], list[str]]:
    """The keys of a file's text, and what is wrong with its other lines."""
    keys, wrong = [], []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if not HASH.fullmatch(words[0].lower()):
            wrong.append(
                f"line {number} does not begin with a SHA-256 in hexadecimal (64 digits): "
                "printf %s KEY | sha256sum makes one"
            )
            continue
        found = [word for word in words[1:] if "=" in word]
        limits = [match for word in found if (match := LIMIT.fullmatch(word))]
        if len(limits) < len(found):
            bad = next(word for word in found if not LIMIT.fullmatch(word))
            wrong.append(
                f"line {number} has {bad!r}; a limit is per_minute=N or at_once=N, N a whole "
                "number from 1 or none"
            )
            continue
        own = {match[1]: None if match[2] == "none" else int(match[2]) for match in limits}
        keys.append(KeyLine(words[0].lower(), own))
    return keys, wrong


class KeyFile:
    """The keys in a file. A line that is wrong lets nobody in, and is named in the log."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at: tuple[int, int] | None = None
        self._keys: tuple[KeyLine, ...] = ()

    def check(self) -> None:
        """For a start: a file that is not there, or has a line that is wrong, stops it.

        :raises ServiceError: ``keys_unreadable``, with the file's name and what is wrong.
        """
        try:
            _, wrong = read_keys(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            wrong = [f"it can not be read ({type(error).__name__})"]
        if wrong:
            raise ServiceError(
                f"api_keys_file {self._path}: {'; '.join(wrong)}. Repair it, or set api_keys_file "
                "to null to let everybody in",
                code="keys_unreadable",
            )

    def find(self, key: str) -> KeyLine | None:
        """The line of a key, found in a time that does not depend on it.

        :raises ServiceError: ``keys_unreadable`` when the file can not be read: nobody comes in.
        """
        given = hashlib.sha256(key.encode()).hexdigest()
        found = [known for known in self._current() if hmac.compare_digest(known.hash, given)]
        return found[0] if found else None

    def limits_of(self, hash_: str, usual: Limits) -> Limits:
        """The limits of the key with this hash."""
        mine: Iterator[KeyLine] = (known for known in self._current() if known.hash == hash_)
        line = next(mine, None)
        return line.limits(usual) if line else usual

    def _current(self) -> tuple[KeyLine, ...]:
        try:
            facts = self._path.stat()
            stamp = (facts.st_mtime_ns, facts.st_size)
            if stamp != self._read_at:
                keys, wrong = read_keys(self._path.read_text(encoding="utf-8"))
                for problem in wrong:
                    log.error("the file of API keys: %s", problem)
                self._keys, self._read_at = tuple(keys), stamp
        except (OSError, ValueError) as error:
            raise ServiceError(
                f"the file of API keys can not be read ({type(error).__name__}). "
                "The operator has to repair api_keys_file",
                code="keys_unreadable",
            ) from error
        return self._keys


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
                line = keys.find(key)
            except ServiceError as error:
                line, status, code, told = None, 503, error.code, error.message
            else:
                code, told = "key_unknown", "the API key is not one of this service's"
            if line is not None:
                state["owner"] = line.hash
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
