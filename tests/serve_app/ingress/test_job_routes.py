"""serve_app/ingress/jobs.py: submit, look, watch, fetch, cancel."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import zipfile
from collections.abc import AsyncIterator
from typing import Any

import pytest
from scripted_jobs import Script

from serve_app.ingress.watching import event_lines
from serve_app.jobs.protocol import JobEvent


def create(client: Any, person: bytes, **fields: str) -> str:
    response = client.post("/jobs", files={"image": ("i.png", person)}, data=fields)
    assert response.status_code == 202, response.text
    return str(response.json()["job_id"])


def finish(client: Any, job: str) -> dict[str, Any]:
    for line in client.get(f"/jobs/{job}/events").text.splitlines():
        assert line.startswith(("id: ", "event: ", "data: ", ":", "")), line
    view: dict[str, Any] = client.get(f"/jobs/{job}").json()
    return view


def test_a_job_from_submission_to_result(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    response = client.post("/jobs", files={"image": ("i.png", person)}, data={"seed": "7"})
    job = response.json()["job_id"]
    assert response.headers["location"] == f"/jobs/{job}"
    assert response.headers["x-job-id"] == job
    assert jobs.requests[0].options["seed"] == 7
    view = finish(client, job)
    assert view["status"] == "succeeded"
    assert view["files"]["stage2/output.glb"] == f"/jobs/{job}/files/stage2/output.glb"
    glb = client.get(view["files"]["stage2/output.glb"])
    assert glb.content == f"stage2/output.glb of {job}".encode()
    assert glb.headers["content-type"] == "model/gltf-binary"
    assert glb.headers["x-content-type-options"] == "nosniff"
    assert client.get(view["files"]["stage1/color_0.png"]).headers["content-type"] == "image/png"


def test_json_bodies(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    body = {"image_base64": base64.b64encode(person).decode(), "stage1_steps": 40}
    assert client.post("/jobs", json=body).status_code == 202
    assert jobs.requests[0].options["stage1_steps"] == 40
    for wrong, status, code in (
        ({}, 400, "image_missing"),
        ({"image_base64": "%%%"}, 400, "invalid_input"),
        ({**body, "image_url": "https://example.com/i.png"}, 400, "image_conflict"),
        ({**body, "stage1_steps": 5}, 422, "options_invalid"),
        ({**body, "colour": "red"}, 422, "options_invalid"),
        ({"image_url": "http://127.0.0.1/i.png"}, 400, "url_forbidden"),
        ([1], 422, "options_invalid"),
    ):
        response = client.post("/jobs", json=wrong)
        assert (response.status_code, response.json()["code"]) == (status, code), wrong
    broken = client.post("/jobs", content=b"{", headers={"Content-Type": "application/json"})
    assert (broken.status_code, broken.json()["code"]) == (400, "invalid_input")


def test_forms_are_checked_like_generates(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    create(client, person, formats="obj,splats")
    assert jobs.requests[0].options["formats"] == ["obj", "splats"]
    response = client.post("/jobs", data={"stage2_steps": "99"})
    assert (response.status_code, response.json()["code"]) == (422, "options_invalid")


def test_progress_and_estimate(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    jobs.script = Script(hold=asyncio.Event())
    jobs.seconds = {"preprocess": 1.0, "stage1": 10.0, "stage2": 4.0}
    job = create(client, person)
    while (view := client.get(f"/jobs/{job}").json())["status"] == "queued":
        pass
    assert (view["stage"], view["step"], view["steps"]) == ("stage1", 25, 50)
    assert view["estimated_seconds"] == 5.0 + 4.0
    client.delete(f"/jobs/{job}")


def test_events_replay_and_resume(make_service: Any, person: bytes) -> None:
    client, _ = make_service()
    job = create(client, person)
    finish(client, job)
    response = client.get(f"/jobs/{job}/events")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    blocks = [block.split("\n") for block in response.text.strip().split("\n\n")]
    assert [block[0] for block in blocks] == ["id: 1", "id: 2", "id: 3"]
    assert [block[1] for block in blocks] == ["event: queued", "event: step", "event: result"]
    assert json.loads(blocks[1][2].removeprefix("data: "))["step"] == 25
    rest = client.get(f"/jobs/{job}/events", headers={"Last-Event-ID": "2"}).text
    assert rest.startswith("id: 3\n")
    assert rest.count("id: ") == 1


async def test_a_quiet_stream_is_kept_alive() -> None:
    async def quiet() -> AsyncIterator[JobEvent]:
        await asyncio.sleep(0.05)
        yield JobEvent(seq=1, time=0.0, kind="step", body={})
        await asyncio.sleep(30)

    lines = event_lines(quiet(), keep_alive_s=0.02)
    seen = [await anext(lines) for _ in range(4)]
    assert seen[0] == ": still here\n\n"
    assert any(line.startswith("id: 1\n") for line in seen)
    await lines.aclose()


def test_the_zip_is_the_same_each_time_and_takes_ranges(make_service: Any, person: bytes) -> None:
    client, _ = make_service()
    job = create(client, person)
    finish(client, job)
    whole = client.get(f"/jobs/{job}/result.zip")
    assert whole.content == client.get(f"/jobs/{job}/result.zip").content
    part = client.get(
        f"/jobs/{job}/result.zip",
        headers={"Range": "bytes=100-199", "If-Range": whole.headers["etag"]},
    )
    assert part.status_code == 206
    assert part.content == whole.content[100:200]
    with zipfile.ZipFile(io.BytesIO(whole.content)) as archive:
        assert "stage2/output.glb" in archive.namelist()


def test_what_is_not_there(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    for path in ("", "/events", "/result.zip", "/files/stage1/color_0.png"):
        response = client.get(f"/jobs/nosuchjob{path}")
        assert (response.status_code, response.json()["code"]) == (404, "not_found"), path
    assert client.delete("/jobs/nosuchjob").status_code == 404
    assert client.get("/jobs/..%2f..%2fetc").status_code in (404, 422)
    job = create(client, person)
    finish(client, job)
    for path in ("stage3/x", "../../settings.py", "stage1", "%2e%2e/input.png", ""):
        assert client.get(f"/jobs/{job}/files/{path}").status_code == 404, path
    jobs.script = Script(hold=asyncio.Event())
    running = create(client, person)
    response = client.get(f"/jobs/{running}/result.zip")
    assert (response.status_code, response.json()["code"]) == (409, "not_finished")
    client.delete(f"/jobs/{running}")
    response = client.get(f"/jobs/{running}/result.zip")
    assert (response.status_code, response.json()["code"]) == (409, "no_result")


def test_delete_cancels_and_removes(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    jobs.script = Script(hold=asyncio.Event())
    job = create(client, person)
    assert jobs.storage.list(job) != []
    response = client.delete(f"/jobs/{job}")
    assert response.status_code == 200
    assert response.json()["status"] == "cancelled"
    assert jobs.storage.list(job) == []


def test_a_running_job_that_is_deleted_stops_later(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    jobs.script = Script(hold=asyncio.Event())
    jobs.stops_at_once = False
    job = create(client, person)
    assert client.delete(f"/jobs/{job}").status_code == 202
    client.portal.call(jobs.stop, job)
    assert finish(client, job)["status"] == "cancelled"


def test_a_removed_job_is_gone_and_not_unknown(make_service: Any, person: bytes) -> None:
    client, _ = make_service()
    job = create(client, person)
    finish(client, job)
    assert client.delete(f"/jobs/{job}").status_code == 200
    for path in ("", "/events", "/result.zip", "/files/stage1/color_0.png"):
        response = client.get(f"/jobs/{job}{path}")
        assert (response.status_code, response.json()["code"]) == (410, "job_expired"), path
    assert client.delete(f"/jobs/{job}").status_code == 410
    assert client.post(f"/jobs/{job}/exports", json={}).status_code == 410


def test_a_file_that_storage_has_lost_is_gone_too(make_service: Any, person: bytes) -> None:
    client, jobs = make_service()
    job = create(client, person)
    finish(client, job)
    jobs.storage.delete(job)
    for path in ("result.zip", "files/stage1/color_0.png"):
        response = client.get(f"/jobs/{job}/{path}")
        assert (response.status_code, response.json()["code"]) == (410, "job_expired"), path
        assert "Send the picture again" in response.json()["detail"]


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=2-4", 206, slice(2, 5)),
        ("bytes=5-", 206, slice(5, None)),
        ("bytes=-3", 206, slice(-3, None)),
        ("bytes=0-99999", 200, slice(None)),
        ("bytes=-99999", 200, slice(None)),
        ("bytes=4-2", 200, slice(None)),
        ("bytes=1-2,4-5", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
        ("bytes=99999-", 416, None),
        ("bytes=-0", 416, None),
    ],
)
def test_files_come_in_ranges(
    make_service: Any, person: bytes, asked: str, status: int, part: slice | None
) -> None:
    client, _ = make_service()
    job = create(client, person)
    finish(client, job)
    path = f"/jobs/{job}/files/stage2/output.glb"
    whole = client.get(path)
    assert whole.headers["accept-ranges"] == "bytes"
    got = client.get(path, headers={"Range": asked, "If-Range": whole.headers["etag"]})
    assert got.status_code == status
    size = len(whole.content)
    if part is None:
        assert got.headers["content-range"] == f"bytes */{size}"
        return
    assert got.content == whole.content[part]
    if status == 206:
        first, stop, _ = part.indices(size)
        assert got.headers["content-range"] == f"bytes {first}-{stop - 1}/{size}"


def test_a_range_of_another_file_is_the_whole_of_this_one(make_service: Any, person: bytes) -> None:
    client, _ = make_service()
    job = create(client, person)
    finish(client, job)
    headers = {"Range": "bytes=2-4", "If-Range": '"another"'}
    assert client.get(f"/jobs/{job}/files/manifest.json", headers=headers).status_code == 200


def test_a_failed_job_tells_why(make_service: Any, person: bytes) -> None:
    from serve_app.jobs.protocol import JobFailure

    client, jobs = make_service()
    jobs.script = Script(failure=JobFailure(code="empty_mesh", message="no voxels", detail={}))
    view = finish(client, create(client, person))
    assert view["status"] == "failed"
    assert view["error"] == {"code": "empty_mesh", "detail": "no voxels"}
