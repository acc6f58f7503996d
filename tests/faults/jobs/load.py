"""Twenty jobs on the way, and the proof that each of them came out whole."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from postgres import PostgresServer
from receiver import Receiver
from sqlalchemy import Row, create_engine, func, select
from sqlalchemy.exc import OperationalError
from stand import Stand, until
from watching import Watcher

from benchmarks.logical.journal import overlaps, read_runs
from benchmarks.logical.stages import glb_extras
from serve_app.jobs.tables import events as event_table
from serve_app.jobs.tables import jobs as job_table

JOBS = 20


@dataclass
class Load:
    """Submitted jobs and their watchers."""

    stand: Stand
    jobs: list[str]
    watchers: list[Watcher]
    receiver: Receiver

    @classmethod
    def of(cls, stand: Stand, receiver: Receiver) -> Load:
        jobs = [stand.submit(webhook_url=receiver.url) for _ in range(JOBS)]
        return cls(stand, jobs, [Watcher(stand.port, job) for job in jobs], receiver)

    def count(self, *statuses: str) -> int:
        """From the table itself: HTTP may be away."""
        marks = ",".join("?" * len(self.jobs))
        query = f"SELECT status FROM jobs WHERE id IN ({marks})"
        return sum(status in statuses for (status,) in self.stand.rows(query, *self.jobs))

    def in_the_middle(self) -> None:
        """Some are done, some run, some wait."""
        until(lambda: self.count("succeeded") >= JOBS // 4, 60)
        assert self.count("running")

    def over(self, within_s: float = 150) -> None:
        until(lambda: self.count("succeeded", "failed", "cancelled") == len(self.jobs), within_s)

    def all_came_out_whole(self, killed_at: float) -> str:
        """Every promise about jobs; returns the figures."""
        self.over()
        done = time.time()
        until(self.stand.listens, 60)
        views = [self.stand.look(job) for job in self.jobs]
        assert [view["status"] for view in views] == ["succeeded"] * len(self.jobs), views
        for view in views:
            assert view["stage2"]["status"] == "completed", view
            self._artifacts_are_whole(view)
        seeds = {view["options"]["seed"] for view in views}
        runs = [run for run in read_runs(self.stand.folder) if run.seed in seeds]
        assert overlaps(runs, killed_at) == []
        for watcher in self.watchers:
            watcher.join(60)
            ((last,),) = self.stand.rows("SELECT last_seq FROM jobs WHERE id = ?", watcher.job)
            assert watcher.ids == list(range(1, last + 1)), "every event, once, in order"
        until(lambda: set(self.jobs) <= set(self._told()), 60)
        assert self.receiver.refused == 0, "every webhook verifies"
        again = sum(view["attempt"] > 1 for view in views)
        cut = sum(watcher.connections > 1 for watcher in self.watchers)
        events = sum(len(watcher.ids) for watcher in self.watchers)
        return (
            f"{len(views)} of {len(views)} succeeded, {again} in attempt 2, last one "
            f"{done - killed_at:.0f} s after the kill; {len(runs)} runs, 0 at once; "
            f"{events} events, each once, {cut} streams resumed; "
            f"{len(self._told())} webhooks verified for {len(self.jobs)} jobs"
        )

    def _told(self) -> list[str]:
        """Jobs whose result the receiver was told, as often as it was."""
        told = [payload["data"]["job_id"] for payload in list(self.receiver.payloads)]
        return [job for job in told if job in self.jobs]

    def _artifacts_are_whole(self, view: dict) -> None:
        job, seed = view["job_id"], view["options"]["seed"]
        files = {name: self.stand.http.get(link).content for name, link in view["files"].items()}
        manifest = json.loads(files["manifest.json"])
        for name, facts in manifest["files"].items():
            assert hashlib.sha256(files[name]).hexdigest() == facts["sha256"], (job, name)
        assert glb_extras(files["stage2/output.glb"]) == {"seed": seed, "stage1_seed": seed}
        # Temporary files of killed writers may lie beside them, under names that nothing reads.
        assert not any(link.endswith(".part") for link in view["files"].values())


def finished_rows(server: PostgresServer, jobs: list[str]) -> list[Row[Any]]:
    """The rows of these jobs, empty while one of them has not ended."""
    found = _query(server, select(job_table).where(job_table.c.id.in_(jobs)))
    return (
        found
        if len(found) == len(jobs) and all(row.finished_at is not None for row in found)
        else []
    )


def overtaken(server: PostgresServer, jobs: list[str], by_s: float) -> int:
    """Jobs that were taken up after one that had come at least ``by_s`` seconds later."""
    taken = (
        select(event_table.c.job_id, func.min(event_table.c.time).label("time"))
        .where(event_table.c.kind == "stage")
        .group_by(event_table.c.job_id)
        .subquery()
    )
    rows = _query(
        server,
        select(job_table.c.created_at, taken.c.time)
        .join(taken, taken.c.job_id == job_table.c.id)
        .where(job_table.c.id.in_(jobs)),
    )
    return sum(
        any(other.created_at > row.created_at + by_s and other.time < row.time for other in rows)
        for row in rows
    )


def _query(server: PostgresServer, query: Any) -> list[Row[Any]]:
    engine = create_engine(server.url)
    try:
        with engine.connect() as connection:
            return list(connection.execute(query).all())
    except OperationalError:
        return []  # it restarts
    finally:
        engine.dispose()
