"""serve_app/ingress/fetch.py against a real local server and resolvers that lie."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from deployments.errors import InputError
from serve_app.address_guard import parse_address
from serve_app.ingress.fetch import FetchLimits, fetch

PICTURE = b"\x89PNG and more bytes"
OPEN = FetchLimits(max_bytes=1000, timeout_s=3, allow_private=True)
GUARDED = FetchLimits(max_bytes=1000, timeout_s=3)


class LocalServer:
    """Answers by path; remembers what was asked."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[str] = []
        self.hosts: list[str] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.answers: dict[str, bytes] = {"/picture.png": answer(200, PICTURE)}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ")[1]
        self.asked.append(path)
        self.hosts += [line[6:] for line in head.split("\r\n") if line.startswith("Host: ")]
        if path == "/slow.png":
            await asyncio.sleep(2)
        writer.write(self.answers.get(path, answer(404, b"")))
        if path == "/endless.png":
            for _ in range(50):
                writer.write(b"64\r\n" + bytes(100) + b"\r\n")
        writer.close()


def answer(status: int, body: bytes, **headers: str) -> bytes:
    fields = {"Content-Length": str(len(body)), "Connection": "close", **headers}
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {text}" for name, text in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture
async def server() -> AsyncIterator[LocalServer]:
    local = LocalServer()
    listening = await asyncio.start_server(local.serve, "127.0.0.1", 0)
    local.port = listening.sockets[0].getsockname()[1]
    yield local
    listening.close()
    for writer in local.writers:
        writer.transport.abort()
    await asyncio.sleep(0.01)


def resolving(**names: str) -> Any:
    """A resolver that knows these names (dots as underscores) and repeats plain addresses."""

    async def resolve(host: str, port: int) -> list[str]:
        known = names.get(host.replace(".", "_"))
        return known.split(",") if known else [host]

    return resolve


async def refused(url: str, **keywords: Any) -> str:
    limits = keywords.pop("limits", GUARDED)
    with pytest.raises(InputError) as caught:
        await fetch(url, limits, **keywords)
    return caught.value.code


async def test_a_picture_arrives(server: LocalServer) -> None:
    url = f"http://127.0.0.1:{server.port}/picture.png"
    assert await fetch(url, OPEN) == PICTURE


async def test_the_connection_goes_to_the_checked_address(server: LocalServer) -> None:
    resolver = resolving(pictures_example="127.0.0.1")
    url = f"http://pictures.example:{server.port}/picture.png"
    assert await fetch(url, OPEN, resolver=resolver) == PICTURE
    assert server.hosts == [f"pictures.example:{server.port}"]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",  # 127.0.0.1 as one number
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fd00::1]",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",  # cloud metadata
        "[fd00:ec2::254]",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "192.0.2.1",
    ],
)
async def test_special_addresses_are_refused(server: LocalServer, host: str) -> None:
    assert await refused(f"http://{host}:{server.port}/picture.png") == "url_forbidden"
    assert server.asked == []


async def test_a_name_with_one_private_address_is_refused(server: LocalServer) -> None:
    resolver = resolving(both_example="93.184.215.14,127.0.0.1")
    url = f"http://both.example:{server.port}/picture.png"
    assert await refused(url, resolver=resolver) == "url_forbidden"
    assert server.asked == []


async def test_rebinding_finds_no_second_look_up(server: LocalServer) -> None:
    """A name that is public at the first question and private at the second."""
    answers = ["93.184.215.14", "127.0.0.1", "127.0.0.1"]
    questions = 0

    async def rebinding(host: str, port: int) -> list[str]:
        nonlocal questions
        questions += 1
        return [answers.pop(0)]

    limits = FetchLimits(max_bytes=1000, timeout_s=0.3)
    url = f"http://rebind.example:{server.port}/picture.png"
    assert await refused(url, resolver=rebinding, limits=limits) in (
        "url_timeout",
        "url_unreachable",
    )
    assert questions == 1
    assert server.asked == []


async def test_a_redirect_is_checked_like_the_first_address(server: LocalServer) -> None:
    target = f"http://inside.example:{server.port}/secret"
    server.answers["/out"] = answer(302, b"", Location=target)
    server.answers["/secret"] = answer(200, b"secret")
    seen: list[str] = []

    class Guard:
        """Lets the first host through, as if it were public, and guards the rest."""

        async def __call__(self, host: str, port: int) -> list[str]:
            seen.append(host)
            return ["127.0.0.1"]

    url = f"http://outside.example:{server.port}/out"
    from serve_app import address_guard as module

    def only_outside(host: str, address: object, field: str) -> None:
        if host != "outside.example":
            original(host, address, field)

    original = module._refuse_unless_public
    module._refuse_unless_public = only_outside
    try:
        assert await refused(url, resolver=Guard()) == "url_forbidden"
    finally:
        module._refuse_unless_public = original
    assert seen == ["outside.example", "inside.example"]
    assert server.asked == ["/out"]


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://example.com/x", "gopher://127.0.0.1/"]
)
async def test_a_redirect_to_another_scheme_is_refused(server: LocalServer, target: str) -> None:
    server.answers["/out"] = answer(301, b"", Location=target)
    url = f"http://127.0.0.1:{server.port}/out"
    assert await refused(url, limits=OPEN) == "url_invalid"


async def test_redirects_are_followed_and_counted(server: LocalServer) -> None:
    server.answers["/near"] = answer(307, b"", Location="picture.png")
    base = f"http://127.0.0.1:{server.port}"
    assert await fetch(f"{base}/near", OPEN) == PICTURE
    server.answers["/round"] = answer(302, b"", Location="/round")
    assert await refused(f"{base}/round", limits=OPEN) == "url_unreachable"
    assert server.asked.count("/round") == 6
    server.answers["/lost"] = answer(302, b"")
    assert await refused(f"{base}/lost", limits=OPEN) == "url_unreachable"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.com/a.png",
        "data:image/png;base64,AAAA",
        "example.com/a.png",
        "http://",
        "http://[::1",
        "http://example.com:99999/",
        "http://user:secret@example.com/a.png",
        "",
    ],
)
async def test_what_is_no_plain_web_address_is_refused(url: str) -> None:
    assert await refused(url, limits=OPEN) == "url_invalid"


async def test_addresses_in_any_script_are_understood(server: LocalServer) -> None:
    server.answers["/b%C3%BCcher/%20a.png?q=%C3%A9&x=1"] = answer(200, PICTURE)
    resolver = resolving(**{"xn--mller-kva_example": "127.0.0.1"})
    url = f"http://m\u00fcller.example:{server.port}/b\u00fccher/%20a.png?q=\u00e9&x=1#top"
    assert await fetch(url, OPEN, resolver=resolver) == PICTURE
    assert await refused(f"http://{'a' * 70}.example/x", limits=OPEN) == "url_invalid"
    assert await refused("http://a b.example/x", limits=OPEN) in ("url_invalid", "url_unreachable")


async def test_size_is_bounded_announced_or_not(server: LocalServer) -> None:
    base = f"http://127.0.0.1:{server.port}"
    server.answers["/announced.png"] = answer(200, b"", **{"Content-Length": "100000000"})
    assert await refused(f"{base}/announced.png", limits=OPEN) == "url_too_large"
    server.answers["/endless.png"] = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    assert await refused(f"{base}/endless.png", limits=OPEN) == "url_too_large"


async def test_time_is_bounded(server: LocalServer) -> None:
    limits = FetchLimits(max_bytes=1000, timeout_s=0.2, allow_private=True)
    began = time.monotonic()
    url = f"http://127.0.0.1:{server.port}/slow.png"
    assert await refused(url, limits=limits) == "url_timeout"
    assert time.monotonic() - began < 3


async def test_failures_are_told(server: LocalServer) -> None:
    base = f"http://127.0.0.1:{server.port}"
    assert await refused(f"{base}/missing.png", limits=OPEN) == "url_unreachable"
    server.answers["/noise"] = b"this is no HTTP\r\n\r\n"
    assert await refused(f"{base}/noise", limits=OPEN) == "url_unreachable"
    assert await refused("http://127.0.0.1:1/x", limits=OPEN) == "url_unreachable"
    nowhere = "http://no-such-name.invalid/x"
    assert await refused(nowhere, limits=OPEN) == "url_unreachable"


async def test_secrets_of_a_signed_address_stay_out_of_messages() -> None:
    with pytest.raises(InputError) as caught:
        await fetch("http://127.0.0.1:1/x?signature=hunter2", OPEN)
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("64:ff9b::a00:1", "10.0.0.1"),
        ("2002:a00:1::", "10.0.0.1"),
        ("2606:4700::1111", "2606:4700::1111"),
    ],
)
def test_hidden_addresses_come_to_light(text: str, found: str) -> None:
    assert str(parse_address(text)) == found


def test_the_route_uses_the_guard(make_service: Any, server: LocalServer) -> None:
    client, jobs = make_service()
    response = client.post("/generate", data={"image_url": "http://169.254.169.254/latest"})
    assert (response.status_code, response.json()["code"]) == (400, "url_forbidden")
    assert jobs.requests == []
