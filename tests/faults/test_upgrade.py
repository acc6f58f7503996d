"""An upgrade under load, rehearsed: new weights, new limits, new code paths, no failed request.

The written procedure is in serve_app/OPERATIONS.md, "Upgrading".
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from stand import Stand, until, whole

from benchmarks.logical.config import FrontSize, StageSize, service_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLIENTS = 4


@pytest.fixture(scope="module")
def spare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Two replicas a stage, and one GPU more for the new replica to start on."""
    with Stand(tmp_path_factory.mktemp("spare")) as stand:
        for stage in ("stage1", "stage2"):
            stand.add_node(stage, stage=stage, gpus=3)
        stand.deploy(version(stand, 0.50, 20), ready=("front", "stage1", "stage2"))
        stand.up()
        yield stand


def version(stand: Stand, seconds: float, max_upload_mb: float) -> dict[str, Any]:
    """A release: its weights (here, their pace) and the front's arguments."""
    stage = StageSize(seconds, replicas=2, options={"max_surge_percent": 50})
    front = FrontSize(gateways=2, args={"max_upload_mb": max_upload_mb, "lease_s": 6.0})
    return service_config(stand.folder, stage, stage, front)


@pytest.mark.parametrize(
    ("parts", "seconds", "max_upload_mb"),
    [("both stages", 0.75, 20), ("front", 0.75, 19), ("all three at once", 0.25, 18)],
)
def test_a_rolling_update_fails_no_request(
    spare: Stand, parts: str, seconds: float, max_upload_mb: float, figure: Any
):
    answers: list[Any] = []
    silent: list[str] = []
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            answers.append(spare.generate())

    before = spare.http.get("/info").json()["stage1"]["checkpoint"]
    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for one in clients:
        one.start()
    until(lambda: len(answers) >= CLIENTS, 60)
    began = time.monotonic()
    spare.deploy(version(spare, seconds, max_upload_mb))

    def is_new() -> bool:
        answer = spare.http.get("/info")
        if answer.status_code != 200:  # it gives the registry two seconds, /generate waits longer
            silent.append(answer.json()["code"])
            return False
        info = answer.json()
        limits = info["limits"]["max_upload_mb"] == max_upload_mb
        running = all(
            spare.application(name) == "RUNNING" for name in ("front", "stage1", "stage2")
        )
        return limits and running and f"seconds={seconds}" in info["stage2"]["checkpoint"]

    until(is_new, 120, every_s=0.5)
    took = time.monotonic() - began
    done = len(answers)
    until(lambda: len(answers) >= done + 2 * CLIENTS, 60)
    over.set()
    for one in clients:
        one.join(60)
        assert not one.is_alive()
    assert Counter(answer.status_code for answer in answers) == {200: len(answers)}
    for answer in answers[-CLIENTS:]:
        whole(spare, answer)
    by_weights = Counter(weights(spare, answer) for answer in answers)
    assert sum(f"seconds={seconds}" in name for name in by_weights) == 1
    if parts != "front":
        assert before in by_weights
    attempts = Counter(spare.look(answer.json()["job_id"])["attempt"] for answer in answers)
    figure(
        f"{len(answers)} requests, 0 failed, done in {took:.0f} s, attempts {dict(attempts)}, "
        f"/info said 503 {len(silent)} times"
    )


def weights(stand: Stand, answer: Any) -> str:
    """The checkpoint that an answer was made with."""
    job = answer.json()["job_id"]
    manifest = stand.http.get(f"/jobs/{job}/files/manifest.json").content
    return str(json.loads(manifest)["checkpoint"])
