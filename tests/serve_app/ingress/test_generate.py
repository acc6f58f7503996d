"""POST /generate: the answers of unified_api.md, options that arrive, clients that leave."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import httpx2
import pytest
from scripted_jobs import PICTURES, Script, ScriptedJobs, StageState

from deployments.contracts import GenerationOptions, Mode, OutputFormat, TextureFormat
from serve_app.ingress.api import make_api
from serve_app.jobs.protocol import JobFailure
from serve_app.options import options_from_json
from serve_app.settings import FrontArgs
from serve_app.storage import Storage

VIEW_KEYS = [name.removesuffix(".png") for name in PICTURES]
STAGE1_ZIP = sorted([f"stage1/{name}" for name in PICTURES] + ["stage1/input.png"])


def send(client: Any, person: bytes, **fields: object) -> Any:
    return client.post("/generate", files={"image": ("image.png", person)}, data=fields)


def test_the_json_answer_is_the_documents(make_service: Any, person: bytes) -> None:
    client, _ = make_service()
    response = send(client, person)
    assert response.status_code == 200
    answer = response.json()
    job = answer["job_id"]
    assert response.headers["x-job-id"] == job
    assert len(job) >= 32
    assert answer["mode"] == "official"
    assert answer["status"] == "completed"
    assert answer["stage1"] == {
        "status": "completed",
        "output_dir": f"tmp_api_jobs/{job}/stage1_output",
        "files": {key: f"{key}.png" for key in VIEW_KEYS},
    }
    assert answer["stage2"] == {
        "status": "completed",
        "output_dir": f"tmp_api_jobs/{job}/stage2_output",
        "files": {"output.glb": "output.glb", "output_mesh.ply": "output_mesh.ply"},
    }
    for stage in ("stage1", "stage2"):
        for name in answer[stage]["files"].values():
            assert Path(answer[stage]["output_dir"], name).is_file()


@pytest.mark.parametrize("value", ["true", "True", "1", "yes", "TRUE", "on"])
def test_download_as_a_field_gives_the_zip(make_service: Any, person: bytes, value: str) -> None:
    client, _ = make_service()
    response = send(client, person, download=value)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/zip"
    assert response.headers["x-job-id"] in response.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        expected = ["manifest.json", *STAGE1_ZIP, "stage2/output.glb", "stage2/output_mesh.ply"]
        assert archive.namelist() == expected


@pytest.mark.parametrize("value", ["false", "0", "no", ""])
def test_no_download_gives_json(make_service: Any, person: bytes, value: str) -> None:
    client, _ = make_service()
    assert send(client, person, download=value).json()["status"] == "completed"


def test_download_in_the_query(make_service: Any, person: bytes) -> None:
    client, _ = make_service()
    response = client.post("/generate?download=true", files={"image": ("image.png", person)})
    assert response.headers["content-type"] == "application/zip"


def test_stage1_only_has_a_preview_and_no_stage2(make_service: Any, person: bytes) -> None:
    client, _ = make_service(mode="stage1-only")
    answer = send(client, person).json()
    assert answer["mode"] == "stage1-only"
    assert answer["stage2"]["status"] == "skipped"
    assert answer["stage1"]["files"]["preview"] == "preview.glb"
    response = send(client, person, download="true")
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.namelist() == sorted(["manifest.json", "stage1/preview.glb", *STAGE1_ZIP])


def test_fallback_says_why(make_service: Any, person: bytes) -> None:
    client, jobs = make_service(mode="graceful-fallback")
    jobs.stages["stage2"] = StageState(state="idle", reason="kaolin is not installed")
    answer = send(client, person).json()
    assert answer["status"] == "completed"
    assert answer["stage2"] == {
        "status": "skipped",
        "reason": "kaolin is not installed",
        "files": {},
    }


def test_every_option_arrives(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    response = send(
        client,
        person,
        mode="graceful-fallback",
        stage1_steps=75,
        stage2_steps=35,
        seed=7,
        guidance=2.5,
        stage2_guidance=4,
        texture_size=1024,
        texture_format="webp",
        simplify=0.9,
        target_faces=5000,
        formats="splats,obj",
    )
    assert response.status_code == 200
    assert options_from_json(jobs.requests[0].options) == GenerationOptions(
        mode=Mode.GRACEFUL_FALLBACK,
        stage1_steps=75,
        stage2_steps=35,
        seed=7,
        guidance=2.5,
        stage2_guidance=4.0,
        texture_size=1024,
        texture_format=TextureFormat.WEBP,
        simplify=0.9,
        target_faces=5000,
        formats=(OutputFormat.SPLATS, OutputFormat.OBJ),
    )


def test_the_services_own_steps_are_the_default(make_service: Any, person: bytes) -> None:
    client, jobs = make_service(stage1_steps=75, stage2_steps=35)
    send(client, person, formats=["obj", "splats"])
    options = options_from_json(jobs.requests[0].options)
    assert (options.stage1_steps, options.stage2_steps) == (75, 35)
    assert options.formats == (OutputFormat.OBJ, OutputFormat.SPLATS)


@pytest.mark.parametrize(
    ("service", "fields", "expected"),
    [
        ("official", {"stage1_only": "true"}, "stage1-only"),
        ("official", {"graceful_fallback": "1"}, "graceful-fallback"),
        ("official", {"mode": "stage1-only"}, "stage1-only"),
        ("graceful-fallback", {"mode": "official"}, "official"),
        ("stage1-only", {"graceful_fallback": "true"}, "stage1-only"),
        ("official", {"stage1_only": "false"}, "official"),
    ],
)
def test_a_request_lowers_the_mode(
    make_service: Any, person: bytes, service: str, fields: dict[str, str], expected: str
) -> None:
    client, _ = make_service(mode=service)
    assert send(client, person, **fields).json()["mode"] == expected


def test_the_picture_is_stored_under_its_real_format(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    client.post("/generate", files={"image": ("me.gif", person)})
    assert jobs.requests[0].input_path.endswith("/input.png")
    assert jobs.storage.read(jobs.requests[0].input_path) == person


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("stage2_unavailable", 503),
        ("stage1_failed", 503),
        ("no_subject", 400),
        ("background_not_removed", 400),
        ("a_code_of_tomorrow", 500),
    ],
)
def test_a_failed_job_is_a_problem(
    make_service: Any, person: bytes, code: str, status: int
) -> None:
    client, jobs = make_service()
    jobs.script = Script(failure=JobFailure(code=code, message="why", detail={"status": "x"}))
    response = send(client, person)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["code"], problem["detail"], problem["status"]) == (code, "why", status)
    assert problem["job_id"] == response.headers["x-job-id"] == jobs.requests[0].job_id
    assert ("retry-after" in response.headers) == (status == 503)


def test_the_answer_survives_a_lost_event_stream(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    jobs.script = Script(cut_events=True)
    assert send(client, person).json()["status"] == "completed"


def test_respond_async_gives_the_job(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    response = client.post(
        "/generate",
        files={"image": ("image.png", person)},
        headers={"Prefer": "respond-async"},
    )
    assert response.status_code == 202
    job = jobs.requests[0].job_id
    assert response.headers["location"] == f"/jobs/{job}"
    assert response.json()["status"] == "queued"
    assert response.headers["preference-applied"] == "respond-async"


async def test_a_job_that_somebody_cancels_is_a_conflict(storage: Storage, person: bytes) -> None:
    jobs = ScriptedJobs(storage)
    jobs.script = Script(hold=asyncio.Event())
    transport = httpx2.ASGITransport(make_api(jobs, storage, FrontArgs()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        waiting = asyncio.ensure_future(
            client.post("/generate", files={"image": ("i.png", person)})
        )
        while not jobs.requests:
            await asyncio.sleep(0.01)
        job = jobs.requests[0].job_id
        assert (await client.delete(f"/jobs/{job}")).json()["status"] == "cancelled"
        response = await waiting
    assert (response.status_code, response.json()["code"]) == (409, "cancelled")
    assert response.json()["job_id"] == response.headers["x-job-id"] == job
    jobs.script.hold.set()


def test_an_idempotency_key_finds_the_job_again(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    headers = {"Idempotency-Key": "order-1"}
    first = client.post("/generate", files={"image": ("i.png", person)}, headers=headers)
    again = client.post("/generate", files={"image": ("i.png", person)}, headers=headers)
    assert first.json()["job_id"] == again.json()["job_id"]
    assert len(jobs.requests) == 1
    assert len(list(Path("tmp_api_jobs").iterdir())) == 1, "the second picture must be gone"
    other = client.post(
        "/generate", files={"image": ("i.png", person)}, data={"seed": "1"}, headers=headers
    )
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert len(list(Path("tmp_api_jobs").iterdir())) == 1


async def leave_in_the_middle(
    jobs: ScriptedJobs,
    storage: Storage,
    person: bytes,
    *,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    settings: FrontArgs | None = None,
) -> None:
    """Send a request by plain ASGI, wait until its job runs, close the connection."""
    jobs.script = Script(hold=asyncio.Event())
    body = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="i.png"\r\n\r\n'
        + person
        + b"\r\n--x--\r\n"
    )
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    left = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send_nothing(message: dict[str, Any]) -> None:
        assert message.get("status", 499) == 499

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/generate",
        "raw_path": b"/generate",
        "query_string": b"",
        "headers": [(b"content-type", b"multipart/form-data; boundary=x"), *headers],
    }
    api = make_api(jobs, storage, settings or FrontArgs())
    call = asyncio.ensure_future(api(scope, receive, send_nothing))
    while not jobs.requests:
        await asyncio.sleep(0.01)
    left.set()
    await asyncio.wait_for(call, 5)
    jobs.script.hold.set()


async def test_leaving_cancels_the_job(storage: Storage, person: bytes) -> None:
    jobs = ScriptedJobs(storage)
    await leave_in_the_middle(jobs, storage, person)
    assert jobs.cancelled == [jobs.requests[0].job_id]


async def test_leaving_with_a_key_keeps_the_job(storage: Storage, person: bytes) -> None:
    jobs = ScriptedJobs(storage)
    await leave_in_the_middle(jobs, storage, person, headers=((b"idempotency-key", b"k"),))
    assert jobs.cancelled == []


async def test_leaving_may_be_set_to_keep_the_job(storage: Storage, person: bytes) -> None:
    jobs = ScriptedJobs(storage)
    settings = FrontArgs(cancel_on_disconnect=False)
    await leave_in_the_middle(jobs, storage, person, settings=settings)
    assert jobs.cancelled == []


def test_a_refused_job_leaves_no_picture(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()

    async def full(request: object) -> None:
        from deployments.errors import ServiceError

        raise ServiceError("1000 jobs are waiting", code="queue_full")

    jobs.submit = full
    response = send(client, person)
    assert (response.status_code, response.json()["code"]) == (429, "queue_full")
    assert int(response.headers["retry-after"]) > 0
    assert list(Path("tmp_api_jobs").iterdir()) == []


def test_the_example_of_the_schema_has_the_documents_fields(make_service: Any) -> None:
    client, _ = make_service()
    schema = client.get("/openapi.json").json()
    fields = schema["components"]["schemas"]["GenerateForm"]["properties"]
    assert {"image", "image_url", "download"} <= set(fields)
    steps = json.dumps(fields["stage1_steps"])
    assert '"minimum": 30' in steps
    assert '"maximum": 100' in steps
