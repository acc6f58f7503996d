"""What a real run exposes, against the catalogue; and what its logs say, one JSON object a line."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from running_service import QUICK, SAMPLE, SECRET, until

from deployments.contracts import Mode
from serve_app.metrics.catalogue import CATALOGUE

pytestmark = pytest.mark.service

TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"X-Request-ID": "mine-1", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
EXPOSED_WITHIN_S = 40.0  # Ray's agents collect every 10 s


@pytest.fixture
def hook() -> Iterator[str]:
    """A receiver that takes every webhook."""

    class Taken(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook?token=hush-hush"
    server.shutdown()
    server.server_close()


def scrape() -> str:
    import ray

    (node,) = ray.nodes()
    return httpx2.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics").text


def log_files() -> list[Path]:
    import ray

    folder = ray._private.worker.global_worker.node.get_logs_dir_path()
    return sorted(Path(folder, "serve").glob("replica_*.log"))


def json_lines(files: list[Path]) -> list[dict[str, Any]]:
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]


def series(text: str) -> dict[str, list[dict[str, str]]]:
    """Labels of every series by its name."""
    found: dict[str, list[dict[str, str]]] = {}
    for name, labels in re.findall(r"^(ray_synchuman_\w+)\{(.*)\} \S+$", text, re.MULTILINE):
        found.setdefault(name, []).append(dict(re.findall(r'(\w+)="([^"]*)"', labels)))
    return found


def told(text: str, wanted: set[str]) -> dict[str, list[dict[str, str]]] | None:
    """Everything, once every name is there and the last request too."""
    found = series(text)
    requests = found.get("ray_synchuman_requests_total", [])
    outcomes = {(one["mode"], one["outcome"], one["deployment"]) for one in requests}
    last = {("official", "ok", "Gateway"), ("official", "refused", "Gateway")}
    return found if wanted <= set(found) and last <= outcomes else None


def test_a_run_exposes_the_catalogue_and_tells_its_story_in_json(service: Any, hook: str) -> None:
    fields = {**QUICK, "stage1_steps": "30", "stage2_steps": "15", "webhook_url": hook}
    answer = service.http.post(
        "/generate",
        files={"image": ("anna-at-the-beach.png", SAMPLE.read_bytes())},
        data=fields,
        headers=HEADERS,
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Request-ID"] == "mine-1"
    job = answer.json()["job_id"]
    # A texture without a pixel: Stage 2 fails each time, and Stage 1 is handed over.
    view = service.finished(service.submit(Mode.GRACEFUL_FALLBACK, texture_size=0))
    assert view["stage2"]["status"] == "failed", view
    refused = service.http.post("/generate", headers={"X-Request-ID": "mine-2"})
    assert (refused.status_code, refused.json()["request_id"]) == (400, "mine-2")

    wanted = {name for metric in CATALOGUE for name in metric.exposed}
    exposed = until(lambda: told(scrape(), wanted), EXPOSED_WITHIN_S)

    assert set(exposed) == wanted, "what is exposed is in the catalogue too"
    for metric in CATALOGUE:
        for name in metric.exposed:
            for labels in exposed[name]:
                assert {*metric.labels, "application", "deployment", "replica"} <= set(labels)
    stages = {one["deployment"] for one in exposed["ray_synchuman_step_seconds_count"]}
    assert stages == {"Stage1", "Stage2"}

    lines = json_lines(log_files())
    ends = [line for line in lines if line.get("event") == "stage_end" and line["job_id"] == job]
    assert {end["stage"] for end in ends} == {"preprocess", "stage1", "stage2"}
    for end in ends:
        assert (end["request_id"], end["outcome"], end["attempt"]) == ("mine-1", "completed", 1)
        assert end["traceparent"] == HEADERS["traceparent"]
        assert end["seconds"] > 0
        assert end["deployment"].partition("_")[2].lower() == end["stage"]
    steps = {end["stage"]: end["steps"] for end in ends}
    assert (steps["stage1"], steps["stage2"]) == (30, 15)
    by_request = {line["deployment"] for line in lines if line.get("request_id") == "mine-1"}
    assert by_request >= {"front_Gateway", "front_Preprocess", "stage1_Stage1", "stage2_Stage2"}

    room = [str(line["message"]) for line in lines if line.get("deployment") == "front_Jobs"]
    assert any("tries again" in message for message in room)
    assert not any("heartbeat" in message for message in room), "a line a heartbeat says nothing"

    written = "".join(file.read_text(errors="replace") for file in log_files())
    secrets = ("anna-at-the-beach", "hush-hush", SECRET, "IHDR", repr(SAMPLE.read_bytes()[:16]))
    assert [text for text in secrets if text in written] == []
