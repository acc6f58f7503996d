"""``/``, ``/health``, ``/info`` and the schema."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from scripted_jobs import UP, StageState, replica

from deployments.errors import ServiceError

UNAVAILABLE = StageState(state="idle", reason="kaolin is not installed")


def test_health_has_exactly_the_documents_fields(make_service: Any) -> None:
    client, _ = make_service()
    response = client.get("/health")
    assert response.status_code == 200
    assert list(response.json().items()) == [
        ("status", "ok"),
        ("service", "SyncHuman Unified API"),
        ("version", "2.0.0"),
        ("mode", "official"),
        ("stage1_available", True),
        ("stage2_available", True),
        ("stage1_steps", 50),
        ("stage2_steps", 25),
    ]


@pytest.mark.parametrize(
    ("mode", "stage1", "stage2", "status", "available"),
    [
        ("official", UP, UP, 200, (True, True)),
        ("official", UP, UNAVAILABLE, 503, (True, False)),
        ("official", UNAVAILABLE, UP, 503, (False, True)),
        ("graceful-fallback", UP, UNAVAILABLE, 200, (True, False)),
        ("graceful-fallback", UP, StageState(state="zero"), 200, (True, True)),
        ("stage1-only", UP, UP, 200, (True, False)),
        ("stage1-only", StageState(state="failed"), UP, 503, (False, False)),
    ],
)
def test_health_is_about_the_services_mode(
    make_service: Any,
    mode: str,
    stage1: StageState,
    stage2: StageState,
    status: int,
    available: tuple[bool, bool],
) -> None:
    client, jobs = make_service(mode=mode, stage1_steps=75)
    jobs.stages = {"stage1": stage1, "stage2": stage2}
    response = client.get("/health")
    body = response.json()
    assert response.status_code == status
    assert body["status"] == ("ok" if status == 200 else "unavailable")
    assert (body["stage1_available"], body["stage2_available"]) == available
    assert body["stage1_steps"] == 75


def test_health_answers_when_the_registry_does_not(
    make_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve_app.ingress import status

    monkeypatch.setattr(status, "HEALTH_WAIT_S", 0.05)
    client, jobs = make_service()

    async def silent() -> None:
        await asyncio.sleep(30)

    async def away() -> None:
        raise ServiceError("no answer", code="store_unavailable")

    for state in (silent, away):
        jobs.state = state
        assert client.get("/health").status_code == 503
        response = client.get("/info")
        assert (response.status_code, response.json()["code"]) == (503, "store_unavailable")


def test_info_tells_of_the_replicas(make_service: Any) -> None:
    client, jobs = make_service(mode="graceful-fallback")
    card = replica(
        "stage1",
        device="NVIDIA H200",
        memory_total=140_000_000_000,
        memory_used=12_500_000_000,
        backends={"attention": "sdpa"},
        step_seconds=0.14,
        busy=True,
    )
    jobs.stages = {
        "stage1": StageState(state="up", replicas=(card,)),
        "stage2": StageState(
            state="idle", reason="no kaolin", replicas=(replica("stage2", reason="no kaolin"),)
        ),
    }
    jobs.seconds = {"preprocess": 0.5, "stage1": 7.0, "stage2": 3.0, "preview": 1.5}
    info = client.get("/info").json()
    assert info["mode"] == "graceful-fallback"
    assert info["description"]
    assert info["stage1"]["steps_range"] == [30, 100]
    assert info["stage1"]["backends"] == {"attention": "sdpa"}
    assert info["stage1"]["checkpoint"] == "embedded"
    assert info["stage2"]["reason"] == "no kaolin"
    assert info["stage2"]["checkpoint"] is None
    assert info["gpus"][0]["device"] == "NVIDIA H200"
    assert info["gpus"][0]["memory_available_gb"] == 127.5
    assert info["gpus"][1]["memory_total_gb"] is None
    assert info["time_estimates"] == {
        "stage1_seconds": 7.0,
        "stage2_seconds": 3.0,
        "total_seconds": 9.0,  # preparation, Stage 1 and the preview: Stage 2 can not run
    }
    jobs.stages["stage2"] = UP
    assert client.get("/info").json()["time_estimates"]["total_seconds"] == 10.5


def test_nothing_is_estimated_before_it_was_measured(make_service: Any) -> None:
    client, _ = make_service()
    assert set(client.get("/info").json()["time_estimates"].values()) == {None}


def test_the_root_speaks_to_programs_and_browsers(make_service: Any) -> None:
    client, _ = make_service()
    answer = client.get("/").json()
    assert answer["service"] == "SyncHuman Unified API"
    assert "POST /generate" in answer["endpoints"]
    page = client.get("/", headers={"Accept": "text/html,application/xhtml+xml"})
    assert page.headers["content-type"].startswith("text/html")
    assert "multipart/form-data" in page.text


def test_docs_and_schema_are_complete(make_service: Any) -> None:
    client, _ = make_service()
    assert client.get("/docs").status_code == 200
    schema = client.get("/openapi.json").json()
    assert {"/", "/health", "/info", "/generate", "/jobs", "/jobs/{job_id}"} <= set(schema["paths"])
    text = json.dumps(schema)
    for reference in {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
        assert reference in schema["components"]["schemas"]
    answers = schema["paths"]["/generate"]["post"]["responses"]
    assert "application/zip" in answers["200"]["content"]
    assert "application/problem+json" in answers["422"]["content"]
    health = schema["components"]["schemas"]["Health"]["properties"]
    assert all("examples" in field for name, field in health.items() if name != "mode")


def test_every_answer_has_its_headers(make_service: Any) -> None:
    client, _ = make_service()
    for path in ("/", "/health", "/nowhere"):
        response = client.get(path, headers={"X-Request-ID": "mine-1", "Origin": "http://a.b"})
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-request-id"] == "mine-1"
        assert response.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in response.headers
    odd = client.get("/health", headers={"X-Request-ID": "x" * 500})
    assert len(odd.headers["x-request-id"]) == 16


def test_browsers_may_ask_from_anywhere(make_service: Any) -> None:
    client, _ = make_service()
    headers = {
        "Origin": "https://viewer.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "idempotency-key,prefer",
    }
    response = client.options("/generate", headers=headers)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "*"


def test_origins_can_be_named(make_service: Any) -> None:
    client, _ = make_service(cors_origins=["https://own.example"])
    foreign = client.get("/health", headers={"Origin": "https://viewer.example"})
    assert "access-control-allow-origin" not in foreign.headers
    own = client.get("/health", headers={"Origin": "https://own.example"})
    assert own.headers["access-control-allow-origin"] == "https://own.example"
