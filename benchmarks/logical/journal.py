"""What the paced stages noted: which job was on which replica, from when to when."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One run of a stage. ``end`` is None when its process was killed in it."""

    stage: str
    seed: int
    pid: int
    begin: float
    end: float | None


def read_runs(folder: Path) -> list[Run]:
    """All runs, by their begin."""
    runs = []
    for file in sorted((folder / "journal").glob("*.jsonl")):
        begun: dict[int, float] = {}
        for text in file.read_text().splitlines():
            line = json.loads(text)
            if line["what"] == "begin":
                begun[line["seed"]] = line["time"]
            else:
                begin = begun.pop(line["seed"])
                runs.append(Run(line["stage"], line["seed"], line["pid"], begin, line["time"]))
        stage, pid = file.stem.split("-")
        runs += [Run(stage, seed, int(pid), begin, None) for seed, begin in begun.items()]
    return sorted(runs, key=lambda run: run.begin)


def overlaps(runs: list[Run], killed_at: float) -> list[tuple[Run, Run]]:
    """Pairs of runs of the same stage for the same job that were on at the same time.

    A run without an end lasted until ``killed_at``.
    """
    by_job = defaultdict(list)
    for run in runs:
        by_job[run.stage, run.seed].append(run)
    return [
        (first, second)
        for those in by_job.values()
        for first, second in pairwise(those)
        if second.begin < (killed_at if first.end is None else first.end)
    ]
