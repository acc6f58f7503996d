"""Reaching an address that a stranger chose, without becoming his tool.

Names are resolved once per connection and the connection goes to exactly the address that was
checked, so a name can not answer "public" to the check and "private" to the socket. ``image_url``
and ``webhook_url`` go through here; ``field`` is the one that a refusal names.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import quote, urlsplit

import anyio
import httpcore2
from httpcore2 import AnyIOBackend, AsyncNetworkBackend, AsyncNetworkStream

from deployments.errors import InputError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Awaitable[list[str]]]

URL_CHARACTERS = "%/:?&=+,;@!$'()*~-._[]|"  # what quoting leaves alone
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


async def system_resolver(host: str, port: int) -> list[str]:
    """Every address that the system knows for a name."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class GuardedBackend(AsyncNetworkBackend):
    """Opens TCP connections to public addresses only, to exactly the address it checked."""

    def __init__(
        self, resolver: Resolver, *, allow_private: bool, field: str = "image_url"
    ) -> None:
        self._resolver = resolver
        self._allow_private = allow_private
        self._field = field
        self._sockets = AnyIOBackend()

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Where a connection may go.

        :raises InputError: ``url_forbidden`` when one of the name's addresses is no public one.
        :raises OSError: when the name is not known.
        """
        found = [parse_address(text) for text in await self._resolver(host.strip("[]"), port)]
        if not self._allow_private:
            for address in found:
                _refuse_unless_public(host, address, self._field)
        return found

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        addresses = await self.addresses(host, port)
        if not addresses:
            raise httpcore2.ConnectError(f"{host} has no address")
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
            f"{field} {short_url(url)} is not an http:// or https:// address. "
            f"Only these are reached{remedy}",
            code="url_invalid",
        )
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"{field} carries a user name or password, which is refused. "
            "Use an address without them",
            code="url_invalid",
        )


async def check_reachable(url: str, resolver: Resolver, *, allow_private: bool, field: str) -> None:
    """Refuse beforehand what a connection would refuse, without making one.

    :raises InputError: ``url_invalid``, ``url_forbidden``, ``url_unreachable``.
    """
    check_url(url, field=field)
    parts = urlsplit(ascii_url(url, field=field))
    guard = GuardedBackend(resolver, allow_private=allow_private, field=field)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = await guard.addresses(parts.hostname or "", port)
    except OSError:
        found = []
    if not found:
        raise InputError(
            f"{field} {short_url(url)} has a host name without an address. Check the address",
            code="url_unreachable",
        )


def ascii_url(url: str, *, field: str = "image_url") -> str:
    """An address as it goes over the wire: host in IDNA, the rest percent-encoded, no fragment."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        host = f"[{host}]" if ":" in host else host.encode("idna").decode()
    except UnicodeError:
        raise InputError(
            f"{field} {short_url(url)} has a host name that does not exist in the name system. "
            "Check the address",
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


def _refuse_unless_public(host: str, address: Address, field: str) -> None:
    if address.is_global and not address.is_multicast and not address.is_reserved:
        return
    remedy = ", or upload the picture" if field == "image_url" else ""
    raise InputError(
        f"{field} leads to {host}, which is at {address}: loopback, private, link-local and "
        f"other special addresses are not reached. Use a public address{remedy}",
        code="url_forbidden",
    )


def host_of(url: str) -> str:
    """What the ``Host`` header says."""
    return urlsplit(url).netloc


def short_url(url: str) -> str:
    """A URL for a message: long ones (signed links) are cut, secrets in the query left out."""
    bare = url.split("?", 1)[0]
    return repr(bare if len(bare) <= 120 else bare[:117] + "...")
