"""serve_app/ingress/limits.py: what one key may ask holds across all replicas of the Gateway."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from serve_app.jobs.tables import Database
from serve_app.jobs.usage import KeyUsage

NOW = 1_000_020.0
ANNA = hashlib.sha256(b"one").hexdigest()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(
        f"{ANNA} anna\n"
        f"{hashlib.sha256(b'two').hexdigest()} ben per_minute=1 at_once=5\n"
        f"{hashlib.sha256(b'three').hexdigest()} per_minute=none\n"
    )
    return path


@pytest.fixture
def usage(tmp_path: Path) -> KeyUsage:
    return KeyUsage(Database(f"sqlite:///{tmp_path}/usage.db"), clock=lambda: NOW)


def send(client: Any, person: bytes, key: str) -> Any:
    return client.post("/jobs", files={"image": ("i.png", person)}, headers={"X-API-Key": key})


def test_a_minute_holds_across_replicas(
    make_service: Any, key_file: Path, usage: KeyUsage, person: bytes
) -> None:
    settings = {"api_keys_file": str(key_file), "key_requests_per_minute": 3}
    (first, jobs), (second, others) = make_service(**settings), make_service(**settings)
    jobs.usage = others.usage = usage
    answers = [send(client, person, "one") for client in (first, second, first, second)]
    assert [answer.status_code for answer in answers] == [202, 202, 202, 429]
    left = [(2, 60), (1, 60), (0, 60), (0, 80)]
    assert [answer.headers["RateLimit"] for answer in answers] == [
        f'"submissions";r={remaining};t={seconds}' for remaining, seconds in left
    ]
    refused = answers[-1]
    assert refused.headers["RateLimit-Policy"] == '"submissions";q=3;w=60'
    assert refused.headers["Retry-After"] == "80"
    body = refused.json()
    assert (body["code"], body["limit"]) == ("rate_limited", 3)
    assert body["request_id"] == refused.headers["x-request-id"]
    assert len(jobs.requests) + len(others.requests) == 3


def test_looking_does_not_count(
    make_service: Any, key_file: Path, usage: KeyUsage, person: bytes
) -> None:
    client, jobs = make_service(api_keys_file=str(key_file), key_requests_per_minute=1)
    jobs.usage = usage
    job = send(client, person, "one").json()["job_id"]
    for _ in range(5):
        look = client.get(f"/jobs/{job}", headers={"X-API-Key": "one"})
        assert look.status_code == 200
        assert "RateLimit" not in look.headers


def test_a_key_has_limits_of_its_own(
    make_service: Any, key_file: Path, usage: KeyUsage, person: bytes
) -> None:
    client, jobs = make_service(
        api_keys_file=str(key_file), key_requests_per_minute=2, key_jobs_at_once=7
    )
    jobs.usage = usage
    assert [send(client, person, "two").status_code for _ in range(2)] == [202, 429]
    assert [send(client, person, "three").status_code for _ in range(4)] == [202] * 4
    assert send(client, person, "one").status_code == 202
    assert [request.jobs_at_once for request in jobs.requests] == [5, 7, 7, 7, 7, 7]


def test_without_keys_there_is_nothing_to_count(make_service: Any, person: bytes) -> None:
    client, jobs = make_service(key_requests_per_minute=1)
    answers = [client.post("/jobs", files={"image": ("i.png", person)}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202] * 3
    assert [request.jobs_at_once for request in jobs.requests] == [None] * 3
    assert "RateLimit" not in answers[0].headers


def test_more_pictures_at_once_than_fit_are_refused(
    make_service: Any, person: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, jobs = make_service(max_intakes=1)
    room = client.app.state.room
    with room.intake():
        refused = client.post("/generate", files={"image": ("i.png", person)})
    assert (refused.status_code, refused.json()["code"]) == (503, "too_busy")
    assert refused.headers["Retry-After"] == "5"
    assert not jobs.requests
    assert client.post("/generate", files={"image": ("i.png", person)}).status_code == 200


def test_an_intake_that_fails_frees_its_place(make_service: Any, person: bytes) -> None:
    client, _ = make_service(max_intakes=1)
    for _ in range(3):
        bad = client.post("/generate", files={"image": ("i.png", b"no picture")})
        assert bad.status_code == 400
    assert client.post("/generate", files={"image": ("i.png", person)}).status_code == 200
