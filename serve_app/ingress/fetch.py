"""Fetching a picture from a URL that a stranger chose, without becoming his tool.

Names are resolved once per connection and the connection goes to exactly the address that was
checked, so a name can not answer "public" to the check and "private" to the socket. Every redirect
opens its own checked connection. Size and time are bounded over the whole chain.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

import anyio
import httpcore2
from httpcore2 import AnyIOBackend, AsyncConnectionPool, AsyncNetworkBackend, AsyncNetworkStream

from deployments.errors import InputError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Awaitable[list[str]]]

MAX_REDIRECTS = 5
URL_CHARACTERS = "%/:?&=+,;@!$'()*~-._[]|"  # what quoting leaves alone
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True)
class FetchLimits:
    """Bounds of one fetch: bytes of the body, seconds for everything together."""

    max_bytes: int
    timeout_s: float = 20.0
    allow_private: bool = False  # also loopback, private and link-local addresses


async def system_resolver(host: str, port: int) -> list[str]:
    """Every address that the system knows for a name."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


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
            f"image_url {_short(url)} took longer than {limits.timeout_s:g} s. "
            "Use a faster server, or upload the picture",
            code="url_timeout",
        ) from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
        raise InputError(
            f"image_url {_short(url)} could not be fetched: {str(error) or type(error).__name__}. "
            "Check the address, or upload the picture",
            code="url_unreachable",
        ) from None


async def _follow(pool: AsyncConnectionPool, url: str, limits: FetchLimits) -> bytes:
    """Fetch with redirects; every hop is checked like the first."""
    for _ in range(MAX_REDIRECTS + 1):
        check_url(url)
        url = _ascii(url)
        headers = [("Accept", "image/png, image/jpeg, image/webp"), ("Accept-Encoding", "identity")]
        headers.append(("User-Agent", "synchuman-serve"))
        async with pool.stream("GET", url, headers=[("Host", _host(url)), *headers]) as response:
            if response.status in (301, 302, 303, 307, 308):
                target = _header(response.headers, b"location")
                if not target:
                    raise InputError(
                        f"image_url {_short(url)} redirects without a target. "
                        "Use the picture's own address",
                        code="url_unreachable",
                    )
                url = urljoin(url, target)
                continue
            if response.status != 200:
                raise InputError(
                    f"image_url {_short(url)} answered {response.status}; it must answer 200. "
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
        f"image_url {_short(url)} has more than {max_bytes:,} bytes, which is the limit. "
        "Use a smaller picture",
        code="url_too_large",
    )


class GuardedBackend(AsyncNetworkBackend):
    """Opens TCP connections to public addresses only, to exactly the address it checked."""

    def __init__(self, resolver: Resolver, *, allow_private: bool) -> None:
        self._resolver = resolver
        self._allow_private = allow_private
        self._sockets = AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        addresses = [parse_address(text) for text in await self._resolver(host.strip("[]"), port)]
        if not addresses:
            raise httpcore2.ConnectError(f"{host} has no address")
        if not self._allow_private:
            for address in addresses:
                _refuse_unless_public(host, address)
        last: httpcore2.NetworkError | None = None
        for address in addresses:
            try:
                return await self._sockets.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except httpcore2.NetworkError as error:
                last = error
        assert last is not None
        raise last

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


def check_url(url: str, *, field: str = "image_url") -> None:
    """Refuse what is no plain http(s) URL. Addresses are checked when the connection is made."""
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_is_fine = urlsplit(""), False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        remedy = "; upload the picture instead" if field == "image_url" else ""
        raise InputError(
            f"{field} {_short(url)} is not an http:// or https:// address. "
            f"Only these are reached{remedy}",
            code="url_invalid",
        )
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"{field} carries a user name or password, which is refused. "
            "Use an address without them",
            code="url_invalid",
        )


def _ascii(url: str) -> str:
    """An address as it goes over the wire: host in IDNA, the rest percent-encoded, no fragment."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        host = f"[{host}]" if ":" in host else host.encode("idna").decode()
    except UnicodeError:
        raise InputError(
            f"image_url {_short(url)} has a host name that does not exist in the name system. "
            "Check the address, or upload the picture",
            code="url_invalid",
        ) from None
    place = host if parts.port is None else f"{host}:{parts.port}"
    path, query = (quote(text, safe=URL_CHARACTERS) for text in (parts.path or "/", parts.query))
    return f"{parts.scheme}://{place}{path}" + (f"?{query}" if query else "")


def parse_address(text: str) -> Address:
    """An address without its zone, with an IPv4 address that hides in IPv6 brought to light."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address.teredo is not None:
            return address.teredo[1]
        if address in NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _refuse_unless_public(host: str, address: Address) -> None:
    if address.is_global and not address.is_multicast and not address.is_reserved:
        return
    raise InputError(
        f"image_url leads to {host}, which is at {address}: loopback, private, link-local and "
        "other special addresses are not fetched. Use a public address, or upload the picture",
        code="url_forbidden",
    )


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _short(url: str) -> str:
    """A URL for a message: long ones (signed links) are cut, secrets in the query left out."""
    bare = url.split("?", 1)[0]
    return repr(bare if len(bare) <= 120 else bare[:117] + "...")


def _header(headers: list[tuple[bytes, bytes]], name: bytes) -> str:
    for key, value in headers:
        if key.lower() == name:
            return value.decode("latin-1").strip()
    return ""
