"""serve_app/ingress/upload.py: too large is refused early, whatever the body claims."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image
from sample_pictures import encoded

from serve_app.ingress.upload import BodyLimit

MEGABYTE = 1_000_000


def test_an_announced_length_is_refused_before_the_body(make_service: Any) -> None:
    client, _ = make_service(max_upload_mb=1)
    response = client.post("/generate", files={"image": ("i.png", bytes(2 * MEGABYTE))})
    assert (response.status_code, response.json()["code"]) == (413, "upload_too_large")
    assert "1,000,000 bytes" in response.json()["detail"]
    assert response.headers["x-request-id"] == response.json()["request_id"]


async def test_the_body_is_not_read_when_its_length_is_too_large() -> None:
    async def app(*_: object) -> None:
        raise AssertionError("the application must not see this request")

    async def receive() -> Any:
        raise AssertionError("no byte may be read")

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-length", b"99999999999")]}
    await BodyLimit(app, lambda: MEGABYTE)(scope, receive, send)
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]


def test_a_body_without_length_is_cut_off(make_service: Any) -> None:
    client, jobs = make_service(max_upload_mb=1)
    given = 0

    def endless() -> Iterator[bytes]:
        nonlocal given
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="i.png"\r\n\r\n'
        for _ in range(500):
            given += 100_000
            yield bytes(100_000)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    response = client.post("/generate", content=endless(), headers=headers)
    assert (response.status_code, response.json()["code"]) == (413, "upload_too_large")
    assert jobs.requests == []


def test_a_picture_a_little_over_the_limit_is_refused(make_service: Any) -> None:
    client, _ = make_service(max_upload_mb=0.5)
    data = bytes(500_001)
    response = client.post("/generate", files={"image": ("i.png", data)})
    assert (response.status_code, response.json()["code"]) == (413, "upload_too_large")


def test_the_limit_may_change_while_running(make_service: Any, person: bytes) -> None:
    client, _ = make_service()
    room = client.app.state.room
    room.settings = room.settings.model_copy(update={"max_upload_mb": 0.0001})
    assert client.post("/generate", files={"image": ("i.png", person)}).status_code == 413


def test_uncompressed_but_allowed(make_service: Any) -> None:
    client, _ = make_service()
    large = encoded(Image.effect_noise((2000, 2000), 90), "PNG", compress_level=0)
    assert len(large) > 3 * MEGABYTE
    assert client.post("/generate", files={"image": ("i.png", large)}).status_code == 200
