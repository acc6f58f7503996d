"""One request through the whole graph: what metrics, traces and logs say of it, and what not."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from whole_graph import WholeGraph

from deployments.errors import GenerationError

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
HEADERS = {"X-Request-ID": "mine-1", "traceparent": f"00-{TRACE}-{CALLER}-01"}


@pytest.fixture(scope="module")
def picture() -> bytes:
    canvas = Image.new("RGBA", (128, 256))
    ImageDraw.Draw(canvas).ellipse((30, 20, 98, 240), fill=(200, 150, 120, 255))
    packed = io.BytesIO()
    canvas.save(packed, "PNG")
    return packed.getvalue()


@pytest.fixture
async def graph(tmp_path: Path) -> AsyncIterator[WholeGraph]:
    async with WholeGraph(tmp_path) as running:
        yield running


async def generate(graph: WholeGraph, picture: bytes, **fields: str) -> Any:
    answer = await graph.http.post(
        "/generate", files={"image": ("i.png", picture)}, data=fields, headers=HEADERS
    )
    await graph.settle()
    return answer


def stage_ends(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    fields = [getattr(record, "ray_serve_extra_fields", {}) for record in caplog.records]
    return [found for found in fields if found.get("event") == "stage_end"]


async def test_every_stage_leaves_one_line_with_its_request(
    graph: WholeGraph, picture: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answer = await generate(graph, picture)
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Request-ID"] == "mine-1"
    job = answer.json()["job_id"]
    ends = stage_ends(caplog)
    assert [end["stage"] for end in ends] == ["preprocess", "stage1", "stage2"]
    for end in ends:
        assert (end["job_id"], end["request_id"], end["attempt"]) == (job, "mine-1", 1)
        assert (end["outcome"], end["device"]) == ("completed", "cpu")
        assert end["traceparent"].startswith(f"00-{TRACE}-")
    assert [end["steps"] for end in ends] == [0, 3, 3]
    assert (await graph.room.get(job)).request_id == "mine-1"


async def test_a_request_is_one_trace(graph: WholeGraph, picture: bytes) -> None:
    await generate(graph, picture)
    spans = {span.name: span for span in graph.spans.get_finished_spans()}
    assert set(spans) == {"ingress", "job", "preprocess", "stage1", "stage2"}
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {TRACE}
    parents = {name: f"{span.parent.span_id:016x}" for name, span in spans.items()}
    ingress, job = (f"{spans[name].context.span_id:016x}" for name in ("ingress", "job"))
    assert parents == {
        "ingress": CALLER,
        "job": ingress,
        "preprocess": job,
        "stage1": job,
        "stage2": job,
    }
    assert spans["ingress"].attributes["synchuman.status"] == 200
    assert spans["job"].attributes["synchuman.outcome"] == "succeeded"


async def test_a_request_is_counted_once_everywhere(graph: WholeGraph, picture: bytes) -> None:
    await generate(graph, picture)
    seen = graph.recorded.seen
    assert seen["requests_total", "official", "ok"] == 1
    assert seen["jobs_total", "succeeded"] == 1
    for stage in ("preprocess", "stage1", "stage2"):
        assert seen["stage_runs_total", stage, "completed"] == 1
        assert seen["stage_seconds", stage, "run"] > 0
        assert seen["stage_seconds", stage, "wait"] > 0
    assert seen["queue_wait_seconds",] > 0
    assert not [key for key in seen if key[0] in ("retries_total", "fallback_total")]


async def test_a_failing_stage2_is_counted_as_what_it_was(
    graph: WholeGraph, picture: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    empty = GenerationError("the mesh is empty", code="empty_mesh")
    graph.faults = {"stage1": [ValueError("a wire is loose")], "stage2": [empty]}
    answer = await generate(graph, picture, graceful_fallback="true")
    assert answer.json()["stage2"]["status"] == "failed"
    seen = graph.recorded.seen
    assert seen["retries_total", "stage1_failed"] == 1
    assert seen["fallback_total", "empty_mesh"] == 1
    assert seen["jobs_total", "fallback"] == 1
    ends = [end for end in stage_ends(caplog) if end["stage"] != "preprocess"]
    assert [(end["stage"], end["outcome"], end.get("code"), end["attempt"]) for end in ends] == [
        ("stage1", "failed", "stage1_failed", 1),
        ("stage1", "completed", None, 2),
        ("stage2", "failed", "empty_mesh", 2),
        ("preview", "completed", None, 2),
    ]
    spans = {span.name: span for span in graph.spans.get_finished_spans()}
    assert spans["stage2"].status.description == "empty_mesh"
    assert spans["job"].status.description is None


async def test_a_problem_of_a_failed_job_has_the_request_id(
    graph: WholeGraph, picture: bytes
) -> None:
    graph.faults = {"stage2": [GenerationError("the mesh is empty", code="empty_mesh")]}
    answer = await generate(graph, picture)
    assert (answer.status_code, answer.json()["code"]) == (500, "empty_mesh")
    assert answer.json()["request_id"] == "mine-1"
    assert graph.recorded.seen["requests_total", "official", "failed"] == 1


async def test_logs_tell_nothing_about_the_picture(
    tmp_path: Path, picture: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "ray.serve")
    caplog.set_level(logging.DEBUG, "uvicorn")
    (tmp_path / "keys").write_text(hashlib.sha256(b"key-of-anna").hexdigest())
    settings = {
        "api_keys_file": str(tmp_path / "keys"),
        "allow_private_urls": True,
        "webhook_secret": "whsec_" + base64.b64encode(bytes(32)).decode(),
        "webhook_delays_s": (0.01,),
    }
    key = {"X-API-Key": "key-of-anna"}
    async with WholeGraph(tmp_path, **settings) as graph:
        graph.faults = {"stage1": [ValueError("a wire is loose")]}
        named = {"image": ("anna-at-the-beach.png", picture)}
        hook = {"webhook_url": "http://127.0.0.1:9/hook?token=hush-hush"}
        first = await graph.http.post("/generate", files=named, data=hook, headers=key)
        assert first.status_code == 200, first.text
        there = {"image_url": "http://127.0.0.1:9/private/anna.png?signature=top-secret"}
        assert (await graph.http.post("/generate", data=there, headers=key)).status_code == 400
        packed = {"image_base64": base64.b64encode(picture).decode()}
        assert (await graph.http.post("/jobs", json=packed, headers=key)).status_code == 202
        assert (await graph.http.post("/jobs", json=packed)).status_code == 401
        bad = {"image_base64": base64.b64encode(b"no picture").decode()}
        assert (await graph.http.post("/jobs", json=bad, headers=key)).status_code == 400

    written = "\n".join(
        f"{record.getMessage()} {record.exc_text or ''} {record.__dict__}"
        for record in caplog.records
    )
    assert "stage_end" in written
    assert "a wire is loose" in written, "what failed must be told"
    forbidden = [
        "anna-at-the-beach",
        "anna.png",
        "top-secret",
        "hush-hush",
        "key-of-anna",
        base64.b64encode(picture).decode()[:40],
        repr(picture[:12]),
        repr(picture)[2:40],
    ]
    assert [text for text in forbidden if text in written] == []
