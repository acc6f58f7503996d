"""The disk, the storage and the database go away while jobs run."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import postgres
import pytest
from load import finished_rows, overtaken
from pair_stand import PAIR, add_nodes
from postgres import PostgresServer
from stand import Stand, until

from benchmarks.logical.config import FrontSize, StageSize, service_config
from benchmarks.logical.journal import overlaps, read_runs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
]
needs_postgres = pytest.mark.skipif(not postgres.available(), reason="no PostgreSQL server here")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    # A socket's path has at most 107 characters, which pytest's folders exceed.
    import tempfile

    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="module")
def two_fronts(tmp_path_factory: pytest.TempPathFactory, server: PostgresServer) -> Iterator[Stand]:
    """Two Gateways, two Jobs, PostgreSQL, four replicas a stage."""
    with Stand(tmp_path_factory.mktemp("fronts")) as stand:
        for stage in ("stage1", "stage2"):
            stand.add_node(stage, stage=stage, gpus=4)
        front = FrontSize(2, 2, {"database_url": server.url, "lease_s": 6.0})
        four = StageSize(0.5, replicas=4)
        stand.deploy(
            service_config(stand.folder, four, four, front),
            ready=("front", "stage1", "stage2"),
        )
        stand.up()
        yield stand


@needs_postgres
def test_two_hundred_jobs_from_twenty_clients_on_two_fronts(
    two_fronts: Stand, server: PostgresServer, figure: Any
):
    began = time.time()
    with ThreadPoolExecutor(20) as clients:
        jobs = list(clients.map(lambda _: two_fronts.submit(), range(200)))
    submitted = time.time() - began
    until(lambda: finished_rows(server, jobs), 240, every_s=1)
    took = time.time() - began
    rows = finished_rows(server, jobs)
    assert {row.status for row in rows} == {"succeeded"}
    assert {row.attempt for row in rows} == {1}
    assert len({row.runner for row in rows}) == 2, "both Jobs replicas took part"
    runs = read_runs(two_fronts.folder)
    assert overlaps(runs, time.time()) == []
    for stage in ("stage1", "stage2"):
        seeds = [run.seed for run in runs if run.stage == stage]
        assert len(seeds) == len(set(seeds)) == 200, "no job twice, none lost"
    late = overtaken(server, jobs, by_s=1.0)
    figure(
        f"200 of 200 succeeded in {took:.0f} s, submitted in {submitted:.1f} s, "
        f"400 runs, 0 twice, {late} overtaken by a job that came 1 s later"
    )
    assert late == 0


@needs_postgres
def test_postgresql_restarts_under_load(two_fronts: Stand, server: PostgresServer, figure: Any):
    jobs = [two_fronts.submit() for _ in range(20)]
    until(lambda: two_fronts.look(jobs[0])["status"] == "succeeded", 60)
    server.restart(away_s=3)
    killed_at = time.time()
    until(lambda: finished_rows(server, jobs), 120, every_s=1)
    rows = finished_rows(server, jobs)
    assert [row.failure for row in rows if row.status != "succeeded"] == []
    assert overlaps(read_runs(two_fronts.folder), killed_at) == []
    again = sum(row.attempt > 1 for row in rows)
    figure(
        f"20 of 20 succeeded, {again} in attempt 2, last one {time.time() - killed_at:.0f} s after "
        "the database was back"
    )


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A service whose artifacts lie on a disk of one megabyte."""
    with Stand(tmp_path_factory.mktemp("disk")) as stand:
        disk = stand.folder / "jobs"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
        try:
            add_nodes(stand)
            stand.deploy(
                stand.config(stage1=PAIR, stage2=PAIR), ready=("front", "stage1", "stage2")
            )
            stand.up()
            yield stand
        finally:
            subprocess.run(["umount", "-l", disk], check=True)


def test_the_disk_fills_up_during_stage1(small_disk: Stand, figure: Any):
    job = small_disk.submit()
    small_disk.at(job, "stage1")
    filler = small_disk.folder / "jobs" / "filler"
    fill(filler)
    view = small_disk.ended(job)
    assert (view["status"], view["error"]["code"]) == ("failed", "storage_unavailable")
    assert not list((small_disk.folder / "jobs" / job).rglob("*.part"))
    refused = small_disk.http.post("/jobs", files={"image": ("p.png", b"")}, data={})
    assert refused.status_code in (400, 503)
    filler.unlink()
    assert small_disk.ended(small_disk.submit())["status"] == "succeeded"
    seconds = view["finished_at"] - view["started_at"]
    figure(f"failed with storage_unavailable after {seconds:.0f} s, the next job succeeded")


def fill(place: Path) -> None:
    with place.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return


def test_the_storage_is_away_for_a_moment_during_stage1(pairs: Stand, figure: Any):
    job = pairs.submit()
    pairs.at(job, "stage1")
    folder, aside = pairs.folder / "jobs", pairs.folder / "aside"
    folder.rename(aside)
    folder.write_text("no folder")
    time.sleep(3)
    folder.unlink()
    aside.rename(folder)
    view = pairs.ended(job)
    assert (view["status"], view["attempt"]) == ("succeeded", 1)
    assert view["stage2"]["status"] == "completed"
    figure("away for 3 s: the job waited and succeeded in attempt 1")
