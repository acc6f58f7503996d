"""serve_app/client: submit, look, list, cancel and export against the API over real HTTP."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from both import IMPATIENT
from live_service import LiveService, live_service
from scripted_jobs import StageState

from deployments.contracts import Mode
from serve_app.client import (
    AccessDenied,
    Client,
    ClientError,
    JobFailed,
    JobStatus,
    NotThere,
    Patience,
    RequestOptions,
    RequestRefused,
    RequestTerms,
    ServiceFailed,
    ServiceUnavailable,
    TooBusy,
    WaitedTooLong,
)
from serve_app.jobs.protocol import JobFailure


def test_from_a_picture_to_its_result(
    client: Any, service: LiveService, portrait: bytes, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(portrait)
    job = client.submit(photo, RequestOptions(seed=7, texture_size=512))
    assert (job.status, job.options["seed"]) == (JobStatus.QUEUED, 7)
    heard: list[str] = []
    ended = client.wait(job.job_id, on_event=lambda event: heard.append(event.kind))
    assert ended.status is JobStatus.SUCCEEDED
    assert heard == ["queued", "step", "result"]
    assert client.job(job.job_id) == ended
    assert service.storage.read(service.jobs.requests[0].input_path) == portrait


@pytest.mark.parametrize("as_text", [True, False])
def test_a_picture_may_be_a_path_text_or_bytes(
    client: Any, portrait: bytes, tmp_path: Path, as_text: bool
) -> None:
    (tmp_path / "photo.png").write_bytes(portrait)
    picture = str(tmp_path / "photo.png") if as_text else portrait
    options = {"formats": ["obj", "splats"], "mode": Mode.STAGE1_ONLY, "simplify": None}
    job = client.submit(picture, options)
    assert job.options["formats"] == ["obj", "splats"]
    assert job.mode is Mode.STAGE1_ONLY


def test_a_picture_may_be_an_address(client: Any) -> None:
    with pytest.raises(RequestRefused, match="loopback") as caught:
        client.submit("http://127.0.0.1:9/photo.png", {"seed": 1})
    assert caught.value.code == "url_forbidden"


def test_a_file_that_is_not_there_is_an_ordinary_error(client: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client.submit(tmp_path / "nothing.png")


def test_terms_reach_the_service(client: Any, service: LiveService, portrait: bytes) -> None:
    terms = RequestTerms(
        priority=-3, keep_for=3600, webhook_url="https://example.com/x", webhook_events=["failed"]
    )
    client.submit(portrait, terms=terms)
    asked = service.jobs.requests[0].terms
    assert (asked.priority, asked.keep_for, asked.webhook_events) == (-3, 3600, ("failed",))


def test_one_key_is_one_job(client: Any, portrait: bytes) -> None:
    first = client.submit(portrait, idempotency_key="k1")
    assert client.submit(portrait, idempotency_key="k1").job_id == first.job_id
    with pytest.raises(RequestRefused) as caught:
        client.submit(portrait, {"seed": 5}, idempotency_key="k1")
    assert (caught.value.code, caught.value.status) == ("idempotency_conflict", 409)


def test_a_lost_answer_makes_no_second_job(
    client: Any, service: LiveService, portrait: bytes
) -> None:
    service.wire.cuts += [("/jobs", 5)]
    job = client.submit(portrait)
    assert [request.job_id for request in service.jobs.requests] == [job.job_id]
    keys = [head["idempotency-key"] for head in service.wire.requests("POST", "/jobs")]
    assert len(keys) == 2
    assert len(set(keys)) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [(503, "application/problem+json"), (429, "application/problem+json"), (500, "text/plain")],
)
def test_what_may_pass_is_asked_again(
    client: Any, service: LiveService, portrait: bytes, status: int, kind: str
) -> None:
    service.wire.answers += [("/jobs", status, {"content-type": kind}, b"{}")] * 3
    client.submit(portrait)
    assert len(service.wire.requests("POST", "/jobs")) == 4


def test_what_the_service_itself_says_of_a_failure_is_final(
    client: Any, service: LiveService
) -> None:
    problem = {"content-type": "application/problem+json", "x-request-id": "r1"}
    body = b'{"code": "internal_error", "detail": "not foreseen"}'
    service.wire.answers += [("/info", 500, problem, body)]
    with pytest.raises(ServiceFailed, match="not foreseen") as caught:
        client.info()
    assert (caught.value.code, caught.value.request_id) == ("internal_error", "r1")


def test_retry_after_is_kept_and_patience_ends(client: Any, service: LiveService) -> None:
    head = {"content-type": "application/problem+json", "retry-after": "2"}
    body = b'{"code": "queue_full", "detail": "1000 jobs are waiting"}'
    service.wire.answers += [("/info", 429, head, body)] * 5
    with pytest.raises(TooBusy) as caught:  # 2 s are waited out, another 2 s would be too many
        client.info()
    assert (caught.value.code, caught.value.retry_after) == ("queue_full", 2.0)
    assert len(service.wire.requests("GET", "/info")) == 2


def test_a_service_that_is_away() -> None:
    patience = Patience(first_s=0.01, longest_s=0.01, in_all_s=0.05)
    with (
        Client("http://127.0.0.1:9", patience=patience) as client,
        pytest.raises(ServiceUnavailable, match="GET /health") as caught,
    ):
        client.health()
    assert (caught.value.code, caught.value.status) == ("no_answer", None)


def test_something_else_at_the_address(client: Any, service: LiveService) -> None:
    service.wire.answers += [("/info", 200, {"content-type": "text/html"}, b"<html>")]
    with pytest.raises(ServiceFailed, match="versions of client and service") as caught:
        client.info()
    assert caught.value.code == "answer_unknown"


def test_a_newer_service_may_say_more(client: Any, service: LiveService) -> None:
    known = httpx2.get(f"{service.url}/health").json()
    body = httpx2.Response(200, json={**known, "moon": "full"}).content
    service.wire.answers += [("/health", 200, {"content-type": "application/json"}, body)]
    assert client.health().status == "ok"


def test_health_and_info(client: Any, service: LiveService) -> None:
    assert client.health().mode is Mode.OFFICIAL
    assert client.info().limits.max_upload_mb == 20
    service.jobs.stages["stage1"] = StageState(state="failed", reason="no weights")
    with pytest.raises(ServiceUnavailable):
        client.health()


def test_jobs_come_page_by_page(client: Any, service: LiveService, portrait: bytes) -> None:
    made = [client.submit(portrait).job_id for _ in range(5)]
    for job in made:
        client.wait(job)
    listed = client.jobs(status=["succeeded"], page_size=2)
    assert [job.job_id for job in listed] == made
    assert len(service.wire.requests("GET", "/jobs")) >= 3
    assert client.jobs(status=[JobStatus.FAILED]) == []


def test_a_job_that_failed(client: Any, service: LiveService, portrait: bytes) -> None:
    service.jobs.script.failure = JobFailure(
        code="no_subject", message="nothing is opaque", kind="InputError", detail={"value": 0}
    )
    job = client.submit(portrait).job_id
    with pytest.raises(JobFailed, match="nothing is opaque") as caught:
        client.wait(job)
    assert (caught.value.code, caught.value.detail["value"]) == ("no_subject", 0)
    assert caught.value.detail["job"].status is JobStatus.FAILED


def test_waiting_has_an_end_and_cancelling_one_too(
    client: Any, service: LiveService, portrait: bytes
) -> None:
    import asyncio

    service.do(lambda: setattr(service.jobs.script, "hold", asyncio.Event()))
    job = client.submit(portrait).job_id
    with pytest.raises(WaitedTooLong, match="it goes on"):
        client.wait(job, timeout_s=0.0)
    assert client.job(job).status in (JobStatus.QUEUED, JobStatus.RUNNING)
    assert client.cancel(job).status is JobStatus.CANCELLED
    with pytest.raises(JobFailed) as caught:
        client.wait(job)
    assert caught.value.code == "cancelled"


def test_an_export_is_a_job_of_its_own(client: Any, portrait: bytes) -> None:
    parent = client.submit(portrait).job_id
    client.wait(parent)
    export = client.export(parent, {"texture_size": 512}, terms={"priority": -1})
    assert export.parent_id == parent
    assert export.options["texture_size"] == 512
    assert client.wait(export.job_id).status is JobStatus.SUCCEEDED


def test_a_job_that_is_not_there(client: Any) -> None:
    for call in (client.job, client.wait, client.cancel, client.events):
        with pytest.raises(NotThere) as caught:
            call("nobody")
        assert caught.value.code == "not_found"


def test_keys(tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "keys").write_text(hashlib.sha256(b"open sesame").hexdigest())
    with live_service(tmp_path / "service", api_keys_file=str(tmp_path / "keys")) as service:
        with Client(service.url, api_key="open sesame", patience=IMPATIENT) as client:
            assert client.info().queued == 0
        with (
            Client(service.url, api_key="wrong", patience=IMPATIENT) as client,
            pytest.raises(AccessDenied) as caught,
        ):
            client.info()
        assert caught.value.code == "key_unknown"


def test_the_tree_has_one_root() -> None:
    for kind in (AccessDenied, JobFailed, NotThere, ServiceFailed, TooBusy, WaitedTooLong):
        assert issubclass(kind, ClientError)


def test_neither_ray_nor_torch_is_imported() -> None:
    code = "import sys, serve_app.client; sys.exit(bool({'ray', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
