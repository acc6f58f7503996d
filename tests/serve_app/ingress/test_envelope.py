"""serve_app/ingress/envelope.py: what every answer has, whatever made it."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from serve_app.ingress.api import make_api
from serve_app.ingress.envelope import outcome_of
from serve_app.metrics.catalogue import REQUESTS, Metric
from serve_app.settings import FrontArgs

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Counted:
    """A recorder that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[Metric, dict[str, str]]] = []

    def record(self, metric: Metric, value: float = 1.0, /, **labels: str) -> None:
        self.seen.append((metric, labels))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/info", 200),
        ("GET", "/docs", 200),
        ("GET", "/nothing", 404),
        ("PUT", "/info", 405),
        ("GET", "/jobs/none", 404),
        ("POST", "/generate", 400),
        ("OPTIONS", "/generate", 405),
    ],
)
def test_every_answer_has_the_headers(
    make_service: Any, method: str, path: str, status: int
) -> None:
    client, _ = make_service()
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert len(answer.headers["X-Request-ID"]) == 16
    assert "Strict-Transport-Security" not in answer.headers


def test_only_pages_may_run_scripts(make_service: Any) -> None:
    client, _ = make_service()
    policies = {
        path: client.get(path, headers={"Accept": "text/html"}).headers["Content-Security-Policy"]
        for path in ("/", "/docs", "/info")
    }
    assert "script-src" not in policies["/info"]
    assert "default-src 'none'" in policies["/info"]
    assert "cdn.jsdelivr.net" in policies["/docs"]
    assert "cdn.jsdelivr.net" not in policies["/"]
    docs = client.get("/docs").text
    assert "https://cdn.jsdelivr.net" in docs, "where the page of FastAPI has its script from"


def test_encrypted_connections_stay_so(make_service: Any) -> None:
    client, _ = make_service()
    answer = TestClient(client.app, base_url="https://testserver").get("/info")
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


def test_a_request_id_goes_out_as_it_came_in_and_into_the_job(
    make_service: Any, person: bytes
) -> None:
    client, jobs = make_service()
    answer = client.post(
        "/jobs", files={"image": ("i.png", person)}, headers={"X-Request-ID": "mine-1"}
    )
    assert answer.headers["X-Request-ID"] == "mine-1"
    assert jobs.requests[0].request_id == "mine-1"


@pytest.mark.parametrize("asked", ["", "two words", "x" * 129])
def test_an_unusable_request_id_is_replaced(make_service: Any, asked: str) -> None:
    client, _ = make_service()
    given = client.get("/info", headers={"X-Request-ID": asked}).headers["X-Request-ID"]
    assert given != asked
    assert len(given) == 16


def test_behind_a_server_with_ids_its_own_one_counts(make_service: Any, storage: Any) -> None:
    _, jobs = make_service()
    api = make_api(jobs, storage, FrontArgs(), server_request_id=lambda: "serve-7")
    answer = TestClient(api).get("/jobs/none")
    assert answer.json()["request_id"] == "serve-7"
    assert "X-Request-ID" not in answer.headers, "the server adds it"


@pytest.mark.parametrize(
    ("header", "kept"), [(PARENT, PARENT), (None, None), ("00-nonsense-01", None)]
)
def test_a_trace_context_is_handed_on(
    make_service: Any, person: bytes, header: str | None, kept: str | None
) -> None:
    client, jobs = make_service()
    client.post(
        "/jobs",
        files={"image": ("i.png", person)},
        headers={"traceparent": header} if header else {},
    )
    assert jobs.requests[0].traceparent == kept


def test_submissions_are_counted_by_mode_and_outcome(
    make_service: Any, storage: Any, person: bytes
) -> None:
    _, jobs = make_service()
    counted = Counted()
    api = make_api(jobs, storage, FrontArgs(), recorder=counted)
    files = {"image": ("i.png", person)}
    with TestClient(api) as client:
        client.post("/generate", files=files)
        client.post("/jobs", files=files, data={"stage1_only": "true"})
        client.post("/generate", files=files, data={"stage1_steps": "5000"})
        client.get("/info")
    assert counted.seen == [
        (REQUESTS, {"mode": "official", "outcome": "ok"}),
        (REQUESTS, {"mode": "stage1-only", "outcome": "accepted"}),
        (REQUESTS, {"mode": "none", "outcome": "refused"}),
    ]


def test_outcomes_are_few() -> None:
    words = {outcome_of(status) for status in range(200, 600)}
    assert words == {"ok", "accepted", "refused", "limited", "unavailable", "failed", "left"}


@pytest.mark.parametrize(
    ("origins", "allowed"), [(("*",), "*"), (("https://a.example",), "https://a.example")]
)
def test_origins_are_the_operators_choice(
    make_service: Any, origins: tuple[str, ...], allowed: str
) -> None:
    client, _ = make_service(cors_origins=origins)
    answer = client.get("/info", headers={"Origin": "https://a.example"})
    assert answer.headers["Access-Control-Allow-Origin"] == allowed
    assert "Access-Control-Allow-Credentials" not in answer.headers
    for name in ("X-Request-ID", "RateLimit", "Retry-After"):
        assert name in answer.headers["Access-Control-Expose-Headers"]
    other = client.get("/info", headers={"Origin": "https://b.example"})
    assert ("Access-Control-Allow-Origin" in other.headers) == (allowed == "*")
