"""How long a process takes from its start until a stage is ready, by part, as JSON.

    python -m benchmarks.load [--stage stage1] [--checkpoint embedded] [--device cpu] [--runs 5]

Every run is a process of its own, as a replica is. ``start`` ends when Python runs this file,
``torch`` and ``modules`` are imports, the rest is loading; ``load_s`` is their sum without the
imports, ``ready_s`` is everything. Run it on a quiet machine: two runs side by side measure
each other. Files are read from memory after the first run, which tells of the disk.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

IMPORTS = ("start", "torch", "modules")


def main() -> None:
    arguments = _arguments()
    if arguments.since is not None:
        print(json.dumps(load(arguments)))
        return
    runs = [measure(arguments) for _ in range(arguments.runs)]
    report = {
        "stage": arguments.stage,
        "checkpoint": arguments.checkpoint,
        "device": arguments.device,
        "best": _over_runs(min, runs),
        "median": _over_runs(statistics.median, runs),
        "runs": runs,
    }
    text = json.dumps(report, indent=1)
    if arguments.out is not None:
        arguments.out.write_text(text)
    print(text)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds by part of one process."""
    command = [sys.executable, "-m", "benchmarks.load", "--since", repr(time.time())]
    for name in ("stage", "checkpoint", "device"):
        command += [f"--{name}", getattr(arguments, name)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    parts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {
        **parts,
        "load_s": round(sum(s for part, s in parts.items() if part not in IMPORTS), 3),
        "ready_s": round(sum(parts.values()), 3),
    }


def load(arguments: argparse.Namespace) -> dict[str, float]:
    """Load a stage in this process, which began at ``arguments.since``."""
    checkpoint, device = arguments.checkpoint, arguments.device
    parts: dict[str, float] = {}
    last = arguments.since

    def ready(part: str) -> None:
        nonlocal last
        now = time.time()
        parts[part] = round(now - last, 3)
        last = now

    ready("start")
    import torch

    ready("torch")
    from deployments.checkpoints.checkpoint import open_checkpoint

    pipeline: Any
    if arguments.stage == "stage1":
        from deployments.stage1.pipeline import Stage1Pipeline

        ready("modules")
        opened = open_checkpoint(checkpoint)
        pipeline = Stage1Pipeline.from_checkpoint(opened, device=device, ready=ready)
    else:
        from deployments.stage2.pipeline import Stage2Pipeline

        ready("modules")
        pipeline = Stage2Pipeline.from_checkpoint(open_checkpoint(checkpoint), device=device)
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    ready("rest")
    del pipeline
    return parts


def _over_runs(of: Any, runs: list[dict[str, float]]) -> dict[str, float]:
    return {part: round(of([run[part] for run in runs]), 3) for part in runs[0]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stage", choices=("stage1", "stage2"), default="stage1")
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    parser.add_argument("--since", type=float, default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
