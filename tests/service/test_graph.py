"""The graph on a real Ray cluster, seen from outside, when nothing goes wrong."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest
from PIL import Image
from running_service import until

from deployments.contracts import Mode

pytestmark = pytest.mark.service


def archive(service: Any, job: str) -> dict[str, bytes]:
    answer = service.http.get(f"/jobs/{job}/result.zip")
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def back_view(files: dict[str, bytes]) -> Any:
    """A view that the seed decides; the front is the picture itself."""
    return np.asarray(Image.open(io.BytesIO(files["stage1/color_2.png"])))


def test_a_photo_becomes_a_glb(service):
    answer = service.generate(stage1_steps="30", stage2_steps="15")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["status"], body["mode"]) == ("completed", "official")
    assert (body["stage1"]["status"], body["stage2"]["status"]) == ("completed", "completed")
    files = archive(service, body["job_id"])
    assert files["stage2/output.glb"][:4] == b"glTF"
    assert files["stage2/output_mesh.ply"][:3] == b"ply"
    manifest = json.loads(files["manifest.json"])
    assert manifest["options"]["stage1_steps"] == 30
    assert manifest["stages"]["stage2"]["statistics"]["texture_size"] == 256
    assert (service.folder / "jobs" / body["job_id"] / "stage2_output" / "output.glb").exists()


def test_an_export_is_made_without_a_stage(service):
    job = service.generate().json()["job_id"]
    made = archive(service, job)

    def export(**changes: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
        answer = service.http.post(f"/jobs/{job}/exports", json=changes)
        assert answer.status_code == 202, answer.text
        view = service.finished(answer.json()["job_id"])
        assert view["status"] == "succeeded", view
        return view, archive(service, view["job_id"])

    view, same = export(formats=["splats"])
    assert same["stage2/output.glb"] == made["stage2/output.glb"]
    assert same["stage2/output_splats.ply"][:3] == b"ply"
    events = service.http.get(f"/jobs/{view['job_id']}/events").text
    assert '"stage":"export"' in events
    assert '"stage":"stage' not in events
    _, other = export(texture_size=512, target_faces=1500)
    manifest = json.loads(other["manifest.json"])
    assert manifest["stages"]["stage2"]["statistics"]["texture_size"] == 512
    assert manifest["parent_id"] == job
    assert other["stage2/output_mesh.ply"] != made["stage2/output_mesh.ply"]
    assert service.http.delete(f"/jobs/{job}").status_code == 200
    assert service.http.post(f"/jobs/{job}/exports", json={}).status_code == 410
    assert not (service.folder / "jobs" / job).exists()


def test_health_and_jobs_answer_while_stage1_works(service):
    job = service.submit(Mode.STAGE1_ONLY, stage1_steps=500)
    service.at_step(job)
    health = service.http.get("/health")
    look = service.look(job)
    assert health.status_code == 200
    assert health.json()["stage1_available"]
    assert (look["status"], look["stage"], look["steps"]) == ("running", "stage1", 500)
    until(lambda: busy(service)["stage1"])
    assert not busy(service)["stage2"]
    assert service.http.delete(f"/jobs/{job}").status_code in (200, 202)
    assert service.finished(job)["status"] == "cancelled"
    until(lambda: not busy(service)["stage1"])


def busy(service: Any) -> dict[str, bool]:
    return {gpu["stage"]: gpu["busy"] for gpu in service.http.get("/info").json()["gpus"]}


def test_two_jobs_at_once_are_queued_and_not_mixed_up(service):
    jobs = [service.submit(Mode.STAGE1_ONLY, seed=seed) for seed in (1, 2)]
    assert [service.finished(job)["status"] for job in jobs] == ["succeeded", "succeeded"]
    first, second = (archive(service, job) for job in jobs)
    assert [json.loads(files["manifest.json"])["seed"] for files in (first, second)] == [1, 2]
    assert not np.array_equal(back_view(first), back_view(second))
    alone = service.submit(Mode.STAGE1_ONLY, seed=1)
    service.finished(alone)
    assert np.array_equal(back_view(first), back_view(archive(service, alone)))


def test_stage1_only_hands_over_views_and_a_preview(service):
    job = service.submit(Mode.STAGE1_ONLY)
    view = service.finished(job)
    assert view["stage2"]["status"] == "skipped"
    files = archive(service, job)
    assert files["stage1/preview.glb"][:4] == b"glTF", view["warnings"]
    assert not any(name.startswith("stage2/") for name in files)


def test_a_picture_without_a_subject_is_refused_by_its_code(service):
    empty = io.BytesIO()
    Image.new("RGBA", (300, 300), (0, 0, 0, 0)).save(empty, "PNG")
    answer = service.http.post("/generate", files={"image": ("x.png", empty.getvalue())})
    assert answer.status_code == 400
    assert answer.json()["code"] in ("no_subject", "image_empty")


def test_events_tell_every_step_and_end(service):
    job = service.submit(Mode.STAGE1_ONLY, stage1_steps=5)
    steps, kinds = [], []
    with service.http.stream("GET", f"/jobs/{job}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("event:"):
                kinds.append(line.removeprefix("event:").strip())
            elif line.startswith("data:") and kinds[-1] == "step":
                body = json.loads(line.removeprefix("data:"))
                if body["stage"] == "stage1" and body["steps"] == 5:
                    steps.append(body["step"])
    assert kinds[0] == "queued"
    assert kinds[-1] == "result"
    assert list(dict.fromkeys(step for step in steps if step)) == [1, 2, 3, 4, 5]
