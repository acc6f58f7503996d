"""Each stage grows and shrinks for itself, and shrinking never cuts a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from stand import Stand, until

from benchmarks.logical.config import StageSize
from benchmarks.logical.journal import read_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MOST = 3
BY_LOAD = {
    "min_replicas": 1,
    "max_replicas": MOST,
    "upscale_delay_s": 1,
    "downscale_delay_s": 3,
    "look_back_period_s": 3,  # a long run: its replicas end together, and that burst is no load
}
LONG, SHORT = StageSize(3.0, autoscaling=BY_LOAD), StageSize(0.2, autoscaling=BY_LOAD)


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A node for each stage with room for three replicas."""
    with Stand(tmp_path_factory.mktemp("roomy")) as stand:
        for stage in ("stage1", "stage2"):
            stand.add_node(stage, stage=stage, gpus=MOST)
        yield stand


def counts(stand: Stand) -> dict[str, int]:
    return {stage: len(stand.replicas(stage, stage.capitalize())) for stage in ("stage1", "stage2")}


@contextmanager
def watched(stand: Stand) -> Iterator[dict[str, int]]:
    """The largest number of replicas that each stage had meanwhile."""
    most = counts(stand)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.3):
            for stage, number in counts(stand).items():
                most[stage] = max(most[stage], number)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("busy", ["stage1", "stage2"])
def test_the_busy_stage_grows_alone_and_shrinks_without_cutting_a_run(
    roomy: Stand, busy: str, figure: Any
):
    sizes = {"stage1": SHORT, "stage2": SHORT, busy: LONG}
    roomy.deploy(roomy.config(**sizes), ready=("front", "stage1", "stage2"))
    roomy.up()
    until(lambda: counts(roomy) == {"stage1": 1, "stage2": 1}, 60)
    other = "stage2" if busy == "stage1" else "stage1"
    with watched(roomy) as most:
        jobs = [roomy.submit() for _ in range(10)]
        for _ in range(8):  # then one at a time, until the stage has shrunk again
            jobs.append(roomy.submit())
            roomy.ended(jobs[-1], 90)
            if most[busy] == MOST and counts(roomy)[busy] == 1:
                break
        views = [roomy.ended(job) for job in jobs]
    assert most == {busy: MOST, other: 1}
    until(lambda: counts(roomy)[busy] == 1, 60)
    assert {(view["status"], view["attempt"]) for view in views} == {("succeeded", 1)}
    seeds = {view["options"]["seed"] for view in views}
    runs = [run for run in read_runs(roomy.folder) if run.seed in seeds]
    assert len(runs) == 2 * len(jobs)
    assert all(run.end is not None for run in runs), "no run was cut"
    figure(f"{busy} 1 -> {most[busy]} -> 1, {other} stayed at 1; {len(jobs)} jobs in attempt 1")
    time.sleep(1)  # the next test begins with a settled autoscaler


def test_replicas_with_half_a_card_share_one(roomy: Stand, figure: Any):
    number = 2 * MOST
    for replicas in (1, number):  # first the new version, then its number: see OPERATIONS.md
        halves = StageSize(3.0, replicas, gpus=0.5)
        roomy.deploy(roomy.config(stage1=halves, stage2=StageSize(0.2)), ready=("stage1", "stage2"))
    until(lambda: counts(roomy)["stage1"] == number, 60)
    jobs = [roomy.submit() for _ in range(number)]
    views = [roomy.ended(job) for job in jobs]
    assert {(view["status"], view["attempt"]) for view in views} == {("succeeded", 1)}
    seeds = {view["options"]["seed"] for view in views}
    runs = [run for run in read_runs(roomy.folder) if run.stage == "stage1" and run.seed in seeds]
    at_once = max(
        sum(other.begin <= run.begin < (other.end or 0) for other in runs) for run in runs
    )
    figure(f"{at_once} runs at once on {MOST} GPUs")
    assert len({run.pid for run in runs}) == number, "each replica had one"
    assert at_once > MOST
