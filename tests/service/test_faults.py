"""What clients see when parts of the service die, are missing, or are told to stop."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any

import httpx2
import pytest
from running_service import QUICK, SAMPLE, until

from deployments.contracts import Mode

pytestmark = pytest.mark.service


def test_a_killed_stage1_costs_time_and_not_the_answer(service):
    job = service.submit()
    service.at_step(job, "stage1")
    service.kill("stage1", "Stage1")
    view = service.finished(job)
    assert (view["status"], view["attempt"]) == ("succeeded", 2), view
    assert view["stage2"]["status"] == "completed"


def test_a_killed_stage2_is_tried_again_without_repeating_stage1(service):
    job = service.submit()
    service.at_step(job, "stage2", step=1)
    service.kill("stage2", "Stage2")
    view = service.finished(job)
    assert (view["status"], view["attempt"]) == ("succeeded", 2), view
    assert events(service, job).count(("stage", "stage1", "running")) == 1


def test_a_killed_jobs_room_loses_no_job(service):
    job = service.submit()
    service.at_step(job, "stage1")
    service.kill("front", "Jobs")
    view = service.finished(job)
    assert (view["status"], view["attempt"]) == ("succeeded", 2), view


def test_a_deleted_job_frees_its_replica(service):
    first = service.submit()
    service.at_step(first, "stage1")
    assert service.http.delete(f"/jobs/{first}").status_code in (200, 202)
    assert service.finished(first, 30)["status"] == "cancelled"
    second = service.submit(Mode.STAGE1_ONLY)
    service.at_step(second, "stage1", step=1)
    service.http.delete(f"/jobs/{second}")


def test_without_stage2_each_mode_does_what_it_promises(service):
    service.remove_stage2()
    try:
        until(lambda: service.stage_state("stage2") == "absent")

        official = service.generate()
        assert official.status_code == 503
        assert official.json()["code"] == "stage2_unavailable"
        assert int(official.headers["Retry-After"]) > 0

        graceful = service.finished(service.submit(Mode.GRACEFUL_FALLBACK))
        assert graceful["stage1"]["status"] == "completed"
        assert graceful["stage2"]["status"] == "skipped"
        assert "not deployed" in graceful["stage2"]["reason"]

        assert not service.http.get("/health").json()["stage2_available"]
    finally:
        service.deploy_stage2()
    until(lambda: service.stage_state("stage2") == "up")
    assert service.finished(service.submit())["stage2"]["status"] == "completed"


def test_a_job_that_waits_when_stage2_goes_falls_back(service):
    job = service.submit(Mode.GRACEFUL_FALLBACK, stage1_steps=12)
    service.at_step(job, "stage1")
    service.remove_stage2()
    try:
        view = service.finished(job)
        assert (view["status"], view["stage2"]["status"]) == ("succeeded", "skipped")
        assert view["stage2"]["reason"]
        assert "stage1/preview.glb" in view["files"], view["warnings"]
    finally:
        service.deploy_stage2()


def test_a_missing_kaolin_leaves_an_idle_stage_that_says_why(service):
    service.deploy_stage2(require_kaolin=True, on_missing="idle", mode="graceful-fallback")
    try:
        until(lambda: service.stage_state("stage2") == "idle")
        official = service.generate()
        assert official.status_code == 503
        assert "kaolin" in official.json()["detail"]
        graceful = service.finished(service.submit(Mode.GRACEFUL_FALLBACK))
        assert graceful["stage2"]["status"] == "skipped"
        assert "kaolin" in graceful["stage2"]["reason"]
    finally:
        service.deploy_stage2()


def test_a_missing_kaolin_fails_the_start_where_it_must(service):
    from ray import serve

    with pytest.raises(RuntimeError):
        service.deploy_stage2(require_kaolin=True, on_missing="raise")
    try:
        overview = serve.status().applications["stage2"]
        assert "Stage 2 required but failed to import" in str(overview)
        assert "--graceful-fallback" in str(overview)
        until(lambda: service.stage_state("stage2") == "failed")
    finally:
        service.deploy_stage2()


def test_a_new_front_loses_no_running_job(service):
    job = service.submit(Mode.STAGE1_ONLY)
    service.at_step(job, "stage1")
    service.deploy_front(max_queued_jobs=999)
    view = service.finished(job)
    assert (view["status"], view["attempt"]) == ("succeeded", 1), view


def test_a_client_that_leaves_takes_its_job_along(service):
    before = time.time()
    with pytest.raises(httpx2.TimeoutException), SAMPLE.open("rb") as picture:
        service.http.post("/generate", files={"image": picture}, data=QUICK, timeout=8)
    until(lambda: cancelled_since(service, before))


def cancelled_since(service: Any, moment: float) -> bool:
    with sqlite3.connect(service.folder / "jobs.db") as rows:
        query = "SELECT count(*) FROM jobs WHERE status = 'cancelled' AND created_at > ?"
        return bool(rows.execute(query, (moment,)).fetchone()[0])


def events(service: Any, job: str) -> list[tuple[str, str, str]]:
    with sqlite3.connect(service.folder / "jobs.db") as rows:
        query = "SELECT kind, body FROM events WHERE job_id = ? ORDER BY seq"
        bodies = [(kind, json.loads(body)) for kind, body in rows.execute(query, (job,))]
    return [(kind, body.get("stage", ""), body.get("state", "")) for kind, body in bodies]
