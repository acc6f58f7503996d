"""Fetching a picture from a URL that a stranger chose (address_guard.py).

Every redirect opens its own checked connection. Size and time are bounded over the whole chain.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from urllib.parse import urljoin

import anyio
import httpcore2
from httpcore2 import AsyncConnectionPool

from deployments.errors import InputError
from serve_app.address_guard import (
    GuardedBackend,
    Resolver,
    ascii_url,
    check_url,
    host_of,
    short_url,
    system_resolver,
)

MAX_REDIRECTS = 5


@dataclass(frozen=True)
class FetchLimits:
    """Bounds of one fetch: bytes of the body, seconds for everything together."""

    max_bytes: int
    timeout_s: float = 20.0
    allow_private: bool = False  # also loopback, private and link-local addresses


async def fetch(
    url: str,
    limits: FetchLimits,
    *,
    resolver: Resolver = system_resolver,
    ssl_context: ssl.SSLContext | None = None,
) -> bytes:
    """The body at an http(s) URL.

    :raises InputError: ``url_invalid``, ``url_forbidden``, ``url_unreachable``, ``url_timeout`` or
        ``url_too_large``; the message names the URL and the rule.
    """
    backend = GuardedBackend(resolver, allow_private=limits.allow_private)
    try:
        with anyio.fail_after(limits.timeout_s):
            async with AsyncConnectionPool(
                ssl_context=ssl_context, network_backend=backend, max_connections=1
            ) as pool:
                return await _follow(pool, url, limits)
    except (TimeoutError, httpcore2.TimeoutException):
        raise InputError(
            f"image_url {short_url(url)} took longer than {limits.timeout_s:g} s. "
            "Use a faster server, or upload the picture",
            code="url_timeout",
        ) from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
        why = str(error) or type(error).__name__
        raise InputError(
            f"image_url {short_url(url)} could not be fetched: {why}. "
            "Check the address, or upload the picture",
            code="url_unreachable",
        ) from None


async def _follow(pool: AsyncConnectionPool, url: str, limits: FetchLimits) -> bytes:
    """Fetch with redirects; every hop is checked like the first."""
    for _ in range(MAX_REDIRECTS + 1):
        check_url(url)
        url = ascii_url(url)
        headers = [("Accept", "image/png, image/jpeg, image/webp"), ("Accept-Encoding", "identity")]
        headers.append(("User-Agent", "synchuman-serve"))
        async with pool.stream("GET", url, headers=[("Host", host_of(url)), *headers]) as response:
            if response.status in (301, 302, 303, 307, 308):
                target = _header(response.headers, b"location")
                if not target:
                    raise InputError(
                        f"image_url {short_url(url)} redirects without a target. "
                        "Use the picture's own address",
                        code="url_unreachable",
                    )
                url = urljoin(url, target)
                continue
            if response.status != 200:
                raise InputError(
                    f"image_url {short_url(url)} answered {response.status}; it must answer 200. "
                    "Check that the picture is public",
                    code="url_unreachable",
                )
            return await _read(response, url, limits.max_bytes)
    raise InputError(
        f"image_url redirects more than {MAX_REDIRECTS} times. Use the picture's own address",
        code="url_unreachable",
    )


async def _read(response: httpcore2.Response, url: str, max_bytes: int) -> bytes:
    announced = _header(response.headers, b"content-length")
    body = bytearray()
    if not (announced.isdecimal() and int(announced) > max_bytes):
        async for piece in response.aiter_stream():
            body += piece
            if len(body) > max_bytes:
                break
        else:
            return bytes(body)
    raise InputError(
        f"image_url {short_url(url)} has more than {max_bytes:,} bytes, which is the limit. "
        "Use a smaller picture",
        code="url_too_large",
    )


def _header(headers: list[tuple[bytes, bytes]], name: bytes) -> str:
    for key, value in headers:
        if key.lower() == name:
            return value.decode("latin-1").strip()
    return ""
