"""The fallback table: whatever Stage 2 suffers, each mode does what it promises.

``official`` answers 503 with cause, remedy and Retry-After, ``graceful-fallback`` with Stage 1, its
preview and the reason; /health and /info tell the truth within 5 seconds; once the cause is gone
the next request uses Stage 2 again, and nothing else was restarted for it.

On one node, with the real pipelines, tests/service/test_faults.py has more rows: never deployed,
kaolin missing (idle, and failing the start), replicas killed in a job.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stand import MODES, STAGE2, Stand, fell_back, refused, until, whole

from benchmarks.logical.config import StageSize

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TRUTH_S = 5.0


@pytest.fixture
def stand(cluster: Stand) -> Iterator[Stand]:
    """The service with both stages up; afterwards nothing but Stage 2 may have been restarted."""
    cluster.order("stage2")
    cluster.deploy(cluster.config(stage2=cluster.restarted()), ready=("front", "stage1", "stage2"))
    cluster.up()
    before = others(cluster)
    yield cluster
    assert others(cluster) == before, "something else was restarted"


def others(stand: Stand) -> dict[str, set[int]]:
    names = [("front", "Gateway"), ("front", "Jobs"), ("stage1", "Stage1")]
    return {name: stand.replica_pids(application, name) for application, name in names}


def gone(stand: Stand) -> float:
    """When Serve, having built what was deployed, has stopped the old version's last replica."""
    until(lambda: not stand.replicas("stage2", "Stage2"), 60)
    return time.monotonic()


def comes_back(stand: Stand) -> float:
    """Seconds until /info says that Stage 2 is up; the next requests then use it."""
    seconds = stand.told("up", since=time.monotonic(), within_s=60)
    again = stand.both()
    whole(stand, again.official)
    whole(stand, again.graceful)
    return seconds


def test_a_constructor_that_fails_for_ever(stand: Stand, figure: Any):
    stand.order("stage2", "start")
    stand.deploy(stand.config(stage2=stand.restarted()))
    until(lambda: stand.application("stage2") == "DEPLOY_FAILED", 60)
    truth = stand.told("failed", since=time.monotonic())
    answers = stand.both()
    refused(answers.official, "ordered not to start")
    fell_back(stand, answers.graceful, "ordered not to start")
    stand.order("stage2")
    stand.deploy(stand.config(stage2=stand.restarted()))
    back = comes_back(stand)
    figure(f"truth after {truth:.1f} s, back {back:.1f} s after the redeploy")
    assert truth < TRUTH_S


def test_no_node_with_a_free_gpu(stand: Stand, figure: Any):
    stand.deploy(
        stand.config(stage2=StageSize(0.4, gpus=2), start_wait_s=8, fallback_start_wait_s=4)
    )
    truth = stand.told("starting", since=gone(stand))
    answers = stand.both()
    refused(answers.official, "starting")
    fell_back(stand, answers.graceful, "starting")
    stand.add_node("larger", stage="stage2", gpus=2)
    back = comes_back(stand)
    stand.deploy(stand.config(stage2=STAGE2), ready=("stage2",))
    stand.remove_node("larger")
    figure(f"truth after {truth:.1f} s, back {back:.1f} s after the node came")
    assert truth < TRUTH_S


def test_a_replica_that_starts_slowly_is_waited_for_by_who_needs_it(stand: Stand, figure: Any):
    stand.order("stage2", "slow", "9")
    stand.deploy(stand.config(stage2=stand.restarted(), fallback_start_wait_s=3))
    truth = stand.told("starting", since=gone(stand))
    began = time.monotonic()
    answers = stand.both()
    whole(stand, answers.official)
    fell_back(stand, answers.graceful, "starting")
    figure(f"truth after {truth:.1f} s, official waited {time.monotonic() - began:.1f} s")
    assert truth < TRUTH_S
    comes_back(stand)


def test_all_replicas_are_busy_beyond_the_wait_limit(stand: Stand):
    stand.deploy(stand.config(stage2=StageSize(12), queue_wait_s=3), ready=("front", "stage2"))
    until(lambda: "seconds=12" in checkpoint(stand), 60)
    holder = stand.submit()
    stand.at(holder, "stage2")
    answers = stand.both()
    refused(answers.official, "all replicas of stage2 are busy (waited ")
    fell_back(stand, answers.graceful, "all replicas of stage2 are busy (waited ")
    assert stand.state() == "up"
    assert stand.ended(holder)["stage2"]["status"] == "completed"
    stand.deploy(stand.config(), ready=("front", "stage2"))
    comes_back(stand)


def test_a_replica_that_is_killed_in_every_run(stand: Stand):
    """One kill costs time only (tests/service/test_faults.py); three are all attempts."""
    stand.deploy(stand.config(stage2=StageSize(2.0)), ready=("stage2",))
    until(lambda: "seconds=2" in checkpoint(stand), 60)
    for mode in MODES:
        stand.up()
        job = stand.submit(**MODES[mode])
        for _ in range(3):
            stand.kill_run(job)
        view = stand.ended(job)
        if mode == "official":
            assert (view["status"], view["error"]["code"]) == ("failed", "stage2_unavailable")
        else:
            assert (view["status"], view["stage2"]["status"]) == ("succeeded", "skipped")
            assert "died" in view["stage2"]["reason"]
            assert "stage1/preview.glb" in view["files"]
        assert view["attempt"] == 3
        (runs,) = stand.rows(
            "SELECT count(*) FROM events WHERE job_id = ? AND kind = 'stage' "
            "AND body LIKE '%stage1%running%'",
            job,
        )
        assert runs == (1,), "Stage 1 is not repeated"
    comes_back(stand)


def checkpoint(stand: Stand) -> str:
    return str(stand.http.get("/info").json()["stage2"]["checkpoint"])


def test_a_node_is_lost(stand: Stand, figure: Any):
    """With a job on it; the other node's replica goes on with it, and alone."""
    two = StageSize(2.5, replicas=2, options={"max_replicas_per_node": 1})
    stand.add_node("second", stage="stage2", gpus=1)
    stand.deploy(stand.config(stage2=two), ready=("stage2",))
    until(lambda: len(stand.replicas("stage2", "Stage2")) == 2, 60)
    jobs = [stand.submit() for _ in range(2)]
    for job in jobs:
        stand.at(job, "stage2")
    stand.remove_node("second")
    began = time.monotonic()
    views = [stand.ended(job) for job in jobs]
    figure(f"both jobs done {time.monotonic() - began:.1f} s after the loss")
    assert [view["stage2"]["status"] for view in views] == ["completed", "completed"]
    assert sorted(view["attempt"] for view in views) == [1, 2]
    whole(stand, stand.generate())
    stand.deploy(stand.config(stage2=STAGE2), ready=("stage2",))


def test_the_only_node_is_lost(stand: Stand, figure: Any):
    stand.deploy(stand.config(start_wait_s=8, fallback_start_wait_s=4), ready=("front", "stage2"))
    stand.up()
    stand.remove_node("stage2")
    truth = stand.told("starting", "failed", "unknown", since=time.monotonic())
    answers = stand.both()
    refused(answers.official)
    fell_back(stand, answers.graceful)
    stand.add_node("stage2", stage="stage2", gpus=1)
    back = comes_back(stand)
    figure(f"truth after {truth:.1f} s, back {back:.1f} s after the node came")
    assert truth < TRUTH_S


def test_memory_runs_out_in_every_run(stand: Stand, figure: Any):
    stand.order("stage2", "memory")
    before = stand.replica_pids("stage2", "Stage2")
    began = time.monotonic()
    answers = stand.both()
    refused(answers.official, "MemoryError", "begun 3 times", code="stage2_failed")
    # A broken process ends by itself. Graceful waits for its successor at most
    # ``fallback_start_wait_s``, so its word is "skipped" or, after three attempts, "failed".
    fell_back(stand, answers.graceful, "MemoryError", status=("skipped", "failed"))
    answered = time.monotonic() - began
    stand.order("stage2")
    comes_back(stand)
    assert not stand.replica_pids("stage2", "Stage2") & before, "the broken process is gone"
    figure(f"two jobs of three attempts answered in {answered:.1f} s")


def test_memory_runs_out_once(stand: Stand, figure: Any):
    """The job that met it goes on in a fresh process."""
    stand.order("stage2", "memory")
    job = stand.submit()
    stand.at(job, "stage2", step=0)
    until(lambda: "restarts after MemoryError" in stand.reason(), 10, every_s=0.05)
    began = time.monotonic()
    stand.order("stage2")
    view = stand.ended(job)
    figure(f"its job done {time.monotonic() - began:.1f} s after it ran out")
    assert (view["stage2"]["status"], view["attempt"]) == ("completed", 2)
    comes_back(stand)


def test_every_run_raises(stand: Stand):
    stand.order("stage2", "error")
    before = stand.replica_pids("stage2", "Stage2")
    answers = stand.both()
    refused(answers.official, "ValueError", "begun 3 times", code="stage2_failed")
    fell_back(stand, answers.graceful, "ValueError", status=("failed",))
    stand.order("stage2")
    comes_back(stand)
    assert stand.replica_pids("stage2", "Stage2") == before


def test_kaolin_is_missing_on_one_of_two_nodes(stand: Stand, tmp_path: Path, figure: Any):
    """The replica without it stays idle and never stands for the one that can work."""
    module = tmp_path / "kaolin" / "ops" / "conversions.py"
    module.parent.mkdir(parents=True)
    module.write_text(
        "class FlexiCubes:\n    def __call__(self, voxelgrid_features): ...\n", encoding="utf-8"
    )
    idle = {"require_kaolin": True, "on_missing": "idle", "mode": "graceful-fallback"}
    apart = {"max_replicas_per_node": 1}
    # Not both changes at once: while a replica is wanted that no node has room for, Serve keeps
    # those of the old version (serve_app/OPERATIONS.md, "Upgrades").
    one = StageSize(0.4, args=idle, options=apart)
    stand.deploy(stand.config(stage2=one, fallback_start_wait_s=4, start_wait_s=8))
    stand.told("idle", since=time.monotonic(), within_s=60)
    two = StageSize(0.4, replicas=2, args=idle, options=apart)
    stand.deploy(stand.config(stage2=two, fallback_start_wait_s=4, start_wait_s=8))
    answers = stand.both()
    refused(answers.official, "kaolin is not installed")
    fell_back(stand, answers.graceful, "kaolin is not installed")
    path = f"{tmp_path}:{Path(__file__).parents[2]}:{Path(__file__).parent}"
    stand.add_node("equipped", stage="stage2", environment={"PYTHONPATH": path})
    back = comes_back(stand)
    for _ in range(6):
        whole(stand, stand.generate())
    figure(f"used {back:.1f} s after the equipped node came")
    stand.deploy(stand.config(stage2=STAGE2), ready=("stage2",))
    stand.remove_node("equipped")  # not before: Serve gives up a replica without a node slowly


def test_stage2_is_removed_and_added_again_while_serving(stand: Stand, figure: Any):
    """A stream of graceful requests: every one answered, with Stage 2 or with the reason."""
    found: list[tuple[float, Any]] = []
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            answer = stand.generate(**MODES["graceful"])
            assert answer.status_code == 200, answer.text
            found.append((time.monotonic(), answer.json()["stage2"]))

    clients = [threading.Thread(target=client) for _ in range(3)]
    for one in clients:
        one.start()
    try:
        until(lambda: len(found) >= 6)
        removed = time.monotonic()
        stand.deploy(stand.config(stage2=None))
        truth = stand.told("absent", since=removed)
        until(lambda: sum(stage2["status"] == "skipped" for _, stage2 in found) >= 6, 60)
        added = time.monotonic()
        stand.deploy(stand.config(stage2=STAGE2))
        until(lambda: found[-1][1]["status"] == "completed" and found[-1][0] > added, 60)
    finally:
        over.set()
        for one in clients:
            one.join(60)
    assert not any(one.is_alive() for one in clients)
    first = min(when for when, stage2 in found if when > added and stage2["status"] == "completed")
    counted = Counter(stage2["status"] for _, stage2 in found)
    reasons = {stage2["reason"] for _, stage2 in found if stage2["status"] == "skipped"}
    figure(
        f"{dict(counted)}, absent told after {truth:.1f} s, "
        f"used again {first - added:.1f} s after the deploy"
    )
    assert set(counted) == {"completed", "skipped"}
    assert all(reasons)
    assert truth < TRUTH_S
