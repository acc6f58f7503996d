"""Lists, owners, terms and exports of jobs over HTTP."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest
from scripted_jobs import Script

from deployments.contracts import GenerationOptions
from serve_app.jobs.protocol import JobKind, JobStatus
from serve_app.options import options_as_json

HOOK = "https://93.184.216.34/hook"  # a public address that needs no name server
SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()


@pytest.fixture
def keyed(make_service: Any, tmp_path: Path) -> Any:
    """A service with the keys of Ann and Bob, and headers for each."""
    keys = tmp_path / "keys.txt"
    keys.write_text("".join(f"{hashlib.sha256(key).hexdigest()}\n" for key in (b"ann", b"bob")))
    client, jobs = make_service(api_keys_file=str(keys))
    return client, jobs, {"X-API-Key": "ann"}, {"X-API-Key": "bob"}


def post(client: Any, person: bytes, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    files = {"image": ("i.png", person)}
    return client.post("/jobs", files=files, data=fields, headers=headers or {})


def finished(client: Any, person: bytes, **fields: Any) -> str:
    job = str(post(client, person, **fields).json()["job_id"])
    assert "event: result" in client.get(f"/jobs/{job}/events").text
    return job


def test_every_route_of_a_job_is_its_owners(keyed: Any, person: bytes) -> None:
    client, jobs, ann, bob = keyed
    job = post(client, person, ann).json()["job_id"]
    client.get(f"/jobs/{job}/events", headers=ann)
    unknown = client.get("/jobs/nosuchjob", headers=bob)
    for method, path in (
        ("GET", ""),
        ("GET", "/events"),
        ("GET", "/result.zip"),
        ("GET", "/files/stage1/color_0.png"),
        ("POST", "/exports"),
        ("DELETE", ""),
    ):
        body = {"json": {}} if method == "POST" else {}
        response = client.request(method, f"/jobs/{job}{path}", headers=bob, **body)
        assert response.status_code == unknown.status_code == 404, path
        assert response.json()["detail"] == unknown.json()["detail"].replace("nosuchjob", job)
    assert jobs.cancelled == []
    assert client.get(f"/jobs/{job}/result.zip", headers=ann).status_code == 200


def test_a_list_shows_own_jobs(keyed: Any, person: bytes) -> None:
    client, _, ann, bob = keyed
    mine = [post(client, person, ann).json()["job_id"] for _ in range(2)]
    post(client, person, bob)
    listed = client.get("/jobs", headers=ann).json()
    assert sorted(job["job_id"] for job in listed["jobs"]) == sorted(mine)
    assert listed["next_cursor"] is None
    assert all(job["links"]["job"] == f"/jobs/{job['job_id']}" for job in listed["jobs"])


def test_without_keys_a_list_shows_all_jobs(make_service: Any, person: bytes) -> None:
    client, _ = make_service()
    jobs = {post(client, person).json()["job_id"] for _ in range(2)}
    assert {job["job_id"] for job in client.get("/jobs").json()["jobs"]} == jobs


def test_filters_reach_the_store(make_service: Any) -> None:
    client, jobs = make_service()
    answer = client.get(
        "/jobs",
        params={
            "status": ["queued", "failed"],
            "created_after": "2026-11-24T16:00:00Z",
            "created_before": "1795536000.5",
            "limit": 1,
            "cursor": "abc",
        },
    )
    assert answer.status_code == 200
    assert answer.json()["next_cursor"] == "more"
    query = jobs.queries[0]
    assert query.statuses == (JobStatus.QUEUED, JobStatus.FAILED)
    assert (query.created_after, query.created_before) == (1795536000.0, 1795536000.5)
    assert (query.limit, query.cursor, query.owner) == (1, "abc", None)


@pytest.mark.parametrize(
    "wrong", ["status=asleep", "limit=0", "limit=101", "created_after=yesterday"]
)
def test_filters_are_checked(make_service: Any, wrong: str) -> None:
    client, _ = make_service()
    response = client.get(f"/jobs?{wrong}")
    assert (response.status_code, response.json()["code"]) == (422, "options_invalid")


def test_terms_reach_the_job(make_service: Any, person: bytes) -> None:
    client, jobs = make_service(max_priority=3, webhook_secret=SECRET)
    fields = {
        "priority": "3",
        "keep_for": "3600",
        "keep_input": "false",
        "webhook_url": HOOK,
        "webhook_events": ["queued", "result"],
    }
    answer = post(client, person, {"X-Request-ID": "r-1"}, **fields)
    assert answer.status_code == 202
    assert answer.json()["priority"] == 3
    request = jobs.requests[0]
    assert request.request_id == "r-1"
    terms = request.terms
    assert (terms.priority, terms.keep_for, terms.keep_input) == (3, 3600, False)
    assert (terms.webhook_url, terms.webhook_events) == (HOOK, ("queued", "result"))
    client.post("/generate", files={"image": person}, data={**fields, "webhook_events": "queued"})
    assert jobs.requests[1].terms.webhook_events == ("queued",)


def test_the_service_fills_in_what_is_not_asked(make_service: Any, person: bytes) -> None:
    client, jobs = make_service(keep_for_s=120, keep_input=False, webhook_secret=SECRET)
    post(client, person, webhook_url=HOOK)
    terms = jobs.requests[0].terms
    assert (terms.priority, terms.keep_for, terms.keep_input) == (0, 120, False)
    assert terms.webhook_events == ("result", "failed", "cancelled")


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "[::1]"])
def test_a_webhook_to_a_private_address_is_refused(
    make_service: Any, person: bytes, address: str
) -> None:
    client, jobs = make_service(webhook_secret=SECRET)
    response = post(client, person, webhook_url=f"http://{address}/hook")
    assert (response.status_code, response.json()["code"]) == (400, "url_forbidden")
    assert "webhook_url leads to" in response.json()["detail"]
    assert jobs.requests == []


def test_a_webhook_without_a_secret_to_sign_it_is_refused(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    response = post(client, person, webhook_url=HOOK)
    assert (response.status_code, response.json()["code"]) == (422, "webhooks_off")
    assert jobs.requests == []


@pytest.mark.parametrize(
    ("field", "value", "status", "code"),
    [
        ("priority", "4", 422, "options_invalid"),
        ("priority", "101", 422, "options_invalid"),
        ("keep_for", "59", 422, "options_invalid"),
        ("keep_for", "1001", 422, "options_invalid"),
        ("webhook_events", "result", 422, "options_invalid"),
        ("webhook_url", "ftp://example.com", 400, "url_invalid"),
        ("webhook_url", "https://me:secret@example.com", 400, "url_invalid"),
    ],
)
def test_terms_have_limits(
    make_service: Any, person: bytes, field: str, value: str, status: int, code: str
) -> None:
    client, jobs = make_service(max_priority=3, max_keep_for_s=1000, keep_for_s=500)
    response = post(client, person, **{field: value})
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert field in response.json()["detail"]
    assert jobs.requests == []
    assert not list(Path("tmp_api_jobs").rglob("input*")), "a refused request leaves no picture"


def test_one_idempotency_key_is_one_request(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    jobs.script = Script(hold=asyncio.Event())
    key = {"Idempotency-Key": "k"}
    job = post(client, person, key, seed="1").json()["job_id"]
    assert post(client, person, key, seed="1").json()["job_id"] == job
    for other in ({"seed": "2"}, {"seed": "1", "priority": "2"}):
        assert post(client, person, key, **other).status_code == 409, other
    assert client.post("/jobs", json={"image_url": "x"}, headers=key).status_code == 400


def test_an_export_changes_what_it_names(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    job = finished(client, person, seed="9", target_faces="5000", formats="splats")
    body = {"texture_size": 512, "simplify": 0.5, "formats": ["obj"], "keep_for": 100}
    answer = client.post(f"/jobs/{job}/exports", json=body)
    assert answer.status_code == 202
    view = answer.json()
    assert (view["kind"], view["parent_id"]) == ("export", job)
    assert answer.headers["location"] == f"/jobs/{view['job_id']}"
    request = jobs.requests[-1]
    assert (request.kind, request.parent_id) == (JobKind.EXPORT, job)
    expected = GenerationOptions(seed=9, texture_size=512, simplify=0.5)
    assert request.options == {**options_as_json(expected), "formats": ["obj"]}
    assert request.terms.keep_for == 100


def test_exports_are_checked(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    job = finished(client, person)
    for wrong in ({"seed": 3}, {"texture_size": 99999}, {"texture_size": 8192}, {"priority": 99}):
        response = client.post(f"/jobs/{job}/exports", json=wrong)
        assert (response.status_code, response.json()["code"]) == (422, "options_invalid"), wrong
    flat = finished(client, person, stage1_only="true")
    response = client.post(f"/jobs/{flat}/exports", json={"formats": ["obj"]})
    assert (response.status_code, response.json()["code"]) == (422, "options_invalid")
    assert client.post(f"/jobs/{flat}/exports", json={"texture_size": 512}).status_code == 202
    assert len(jobs.requests) == 3


def test_one_idempotency_key_is_one_export(make_service: Any, person: bytes) -> None:
    client, _ = make_service()
    job = finished(client, person)
    path, key = f"/jobs/{job}/exports", {"Idempotency-Key": "k"}
    first = client.post(path, json={"texture_size": 512}, headers=key).json()["job_id"]
    assert client.post(path, json={"texture_size": 512}, headers=key).json()["job_id"] == first
    assert client.post(path, json={"texture_size": 256}, headers=key).status_code == 409
