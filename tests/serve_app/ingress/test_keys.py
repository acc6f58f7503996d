"""serve_app/ingress/keys.py: only who has a key comes in, and a taken-back key is out at once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import ServiceError
from serve_app.ingress.keys import KeyFile, Limits, read_keys


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(
        f"# people\n{hashlib.sha256(b'one').hexdigest()} anna # since May\n\nnot a hash\n"
    )
    return path


def ask(client: Any, **headers: str) -> Any:
    return client.get("/info", headers={name.replace("_", "-"): v for name, v in headers.items()})


def test_without_a_file_everybody_comes_in(make_service: Any) -> None:
    client, _ = make_service()
    assert ask(client).status_code == 200


def test_only_known_keys_come_in(make_service: Any, key_file: Path) -> None:
    client, _ = make_service(api_keys_file=str(key_file))
    assert ask(client, Authorization="Bearer one").status_code == 200
    assert ask(client, X_API_Key="one").status_code == 200
    for headers, code in (
        ({}, "key_missing"),
        ({"Authorization": "Basic one"}, "key_missing"),
        ({"Authorization": "Bearer two"}, "key_unknown"),
        ({"X_API_Key": "not a hash"}, "key_unknown"),
    ):
        response = ask(client, **headers)
        assert (response.status_code, response.json()["code"]) == (401, code)
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.headers["x-request-id"] == response.json()["request_id"]


@pytest.mark.parametrize("path", ["/", "/health", "/docs", "/openapi.json"])
def test_what_tells_nothing_stays_open(make_service: Any, key_file: Path, path: str) -> None:
    client, _ = make_service(api_keys_file=str(key_file))
    assert client.get(path).status_code == 200


def test_a_job_belongs_to_its_key(make_service: Any, key_file: Path, person: bytes) -> None:
    client, jobs = make_service(api_keys_file=str(key_file))
    files = {"image": ("i.png", person)}
    assert client.post("/generate", files=files).status_code == 401
    assert client.post("/generate", files=files, headers={"X-API-Key": "one"}).status_code == 200
    assert [request.owner for request in jobs.requests] == [hashlib.sha256(b"one").hexdigest()]


def test_changes_of_the_file_count_at_once(make_service: Any, key_file: Path) -> None:
    client, _ = make_service(api_keys_file=str(key_file))
    assert ask(client, X_API_Key="one").status_code == 200
    key_file.write_text(hashlib.sha256(b"two").hexdigest().upper())
    assert ask(client, X_API_Key="one").status_code == 401
    assert ask(client, X_API_Key="two").status_code == 200
    key_file.unlink()
    response = ask(client, X_API_Key="two")
    assert (response.status_code, response.json()["code"]) == (503, "keys_unreadable")
    assert str(key_file) not in response.text


@pytest.mark.parametrize(
    ("rest", "limits"),
    [
        ("", Limits(10, 20)),
        ("anna", Limits(10, 20)),
        ("anna per_minute=1", Limits(1, 20)),
        ("at_once=3 per_minute=none # note", Limits(None, 3)),
    ],
)
def test_a_line_may_have_limits(rest: str, limits: Limits) -> None:
    (key,), wrong = read_keys(f"{hashlib.sha256(b'one').hexdigest()} {rest}")
    assert key.limits(Limits(10, 20)) == limits
    assert not wrong


@pytest.mark.parametrize("rest", ["per_minute=0", "per_minute=many", "at_one=3", "per_minute="])
def test_a_limit_that_nobody_understands_lets_nobody_in(
    make_service: Any, tmp_path: Path, rest: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text(f"\n{hashlib.sha256(b'one').hexdigest()} {rest}\n")
    client, _ = make_service(api_keys_file=str(path))
    assert ask(client, X_API_Key="one").status_code == 401
    assert f"line 2 has '{rest}'" in caplog.text


@pytest.mark.parametrize(
    ("text", "told"),
    [(None, "can not be read"), ("short\n", "line 1"), (f"{'a' * 64} at_once=x\n", "at_once=x")],
)
def test_a_start_says_what_is_wrong_with_the_file(
    tmp_path: Path, text: str | None, told: str
) -> None:
    path = tmp_path / "keys"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ServiceError, match=told) as error:
        KeyFile(path).check()
    assert str(path) in error.value.message
    path.write_text(f"# nobody\n{'a' * 64} anna per_minute=3\n")
    KeyFile(path).check()
