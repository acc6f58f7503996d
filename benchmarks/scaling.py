"""Requests a minute and latency at 1, 2 and 4 replicas of each stage, against the ideal line.

    python benchmarks/scaling.py > scaling.json

Every replica reserves one logical GPU and holds its slot for a fixed time (benchmarks/logical), so
what is measured is all that the service adds: HTTP, store, runner, routing. The other stage has
replicas to spare. Two clients a replica send one request after the other: the queue is never empty.
At the end two clients send photos to one replica of each stage with the embedded checkpoint, on the
CPU: what this machine makes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.logical.cluster import ROOT, LogicalCluster, until
from benchmarks.logical.config import FrontSize, StageSize, service_config
from benchmarks.logical.journal import read_runs

PICTURE = (ROOT / "serve_app" / "sample" / "person.png").read_bytes()
MOST = 4
CLIENTS_A_REPLICA = 2
SHORT_S = 0.2  # of the stage that is not looked at


def measure(
    cluster: LogicalCluster, stage: str, replicas: int, hold_s: float, requests: int, seeds: Any
) -> dict[str, Any]:
    """One row of the table; ``requests`` a client."""
    looked_at, other = StageSize(hold_s, replicas), StageSize(SHORT_S, MOST)
    first, second = (looked_at, other) if stage == "stage1" else (other, looked_at)
    cluster.deploy(
        service_config(cluster.folder, first, second), ready=("front", "stage1", "stage2")
    )
    until(lambda: count(cluster, stage) == replicas, 60)
    began = time.time()
    latencies = load(cluster, CLIENTS_A_REPLICA * replicas, requests, seeds)
    runs = [run for run in read_runs(cluster.folder) if run.stage == stage and run.begin > began]
    took = max(run.end or 0.0 for run in runs) - min(run.begin for run in runs)
    ideal = replicas * 60 / hold_s
    rate = 60 * len(runs) / took
    return {
        "stage": stage,
        "gpus": replicas,
        "requests": len(runs),
        "requests_a_minute": round(rate, 1),
        "ideal": round(ideal, 1),
        "share_of_ideal": round(rate / ideal, 3),
        "latency_median_s": round(statistics.median(latencies), 2),
        "latency_largest_s": round(max(latencies), 2),
    }


def load(cluster: LogicalCluster, clients: int, requests: int, seeds: Any) -> list[float]:
    """Seconds of each request, of clients that send one after the other."""

    def client(_: int) -> list[float]:
        seconds = []
        for _ in range(requests):
            sent = time.monotonic()
            answer = cluster.http.post(
                "/generate", files={"image": ("p.png", PICTURE)}, data={"seed": str(next(seeds))}
            )
            assert answer.status_code == 200, answer.text
            seconds.append(time.monotonic() - sent)
        return seconds

    with ThreadPoolExecutor(clients) as pool:
        return [one for those in pool.map(client, range(clients)) for one in those]


def real(cluster: LogicalCluster, checkpoint: str, requests: int, seeds: Any) -> dict[str, Any]:
    """The same service with networks in it. The first request, which warms up, is apart."""
    args = {"checkpoint": checkpoint}
    stage = StageSize(gpus=0, args=args)
    cluster.deploy(
        service_config(cluster.folder, stage, stage, FrontSize(args=args), stages="serve_app.app"),
        ready=("front", "stage1", "stage2"),
    )
    (first,) = load(cluster, 1, 1, seeds)
    began = time.monotonic()
    latencies = load(cluster, CLIENTS_A_REPLICA, requests, seeds)
    return {
        "checkpoint": checkpoint,
        "cores": os.cpu_count(),
        "first_s": round(first, 1),
        "requests": len(latencies),
        "requests_a_minute": round(60 * len(latencies) / (time.monotonic() - began), 2),
        "latency_median_s": round(statistics.median(latencies), 1),
    }


def count(cluster: LogicalCluster, stage: str) -> int:
    return len(cluster.replicas(stage, stage.capitalize()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hold", type=float, default=4.0, help="seconds that a run holds its slot")
    parser.add_argument("--requests", type=int, default=3, help="requests of each client")
    parser.add_argument(
        "--checkpoint", default="embedded", help="for the real pipelines at the end"
    )
    given = parser.parse_args()
    seeds = itertools.count(1)
    with (
        tempfile.TemporaryDirectory(prefix="scaling") as folder,
        LogicalCluster(Path(folder)) as cluster,
    ):
        for stage in ("stage1", "stage2"):
            cluster.add_node(stage, stage=stage, gpus=MOST)
        rows = []
        for stage, replicas in itertools.product(("stage1", "stage2"), (1, 2, 4)):
            rows.append(measure(cluster, stage, replicas, given.hold, given.requests, seeds))
            print(rows[-1], file=sys.stderr, flush=True)
        own = real(cluster, given.checkpoint, given.requests, seeds)
    print(json.dumps({"hold_s": given.hold, "rows": rows, "real": own}, indent=2))


if __name__ == "__main__":
    main()
