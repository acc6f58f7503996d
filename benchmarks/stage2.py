"""Time and memory of every part of Stage 2, from voxels and views to files, as JSON.

    python -m benchmarks.stage2 --device cuda --out stage2.json
    python -m benchmarks.stage2 --checkpoint random:small --voxels 1500 --texture 1024

Two bodies are measured: `person`, where the mesh decoder takes its time and then hands over the
surface that a trained one would (benchmarks/stage2_subject.py), and `foam`, what random weights
make of the same voxels: a worst case, two fifths of which no picture sees.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.profile_table import profile_by_category
from benchmarks.stage2_subject import KnownSurface, subject
from deployments.checkpoints.checkpoint import open_checkpoint
from deployments.contracts import GenerationOptions, MultiviewResult, PreparedImage
from deployments.layers.attention import current_backend
from deployments.layers.sparse.backend import current_sparse_backend
from deployments.stage2.pipeline import Stage2Pipeline

BODIES = ("person", "foam")
LIMITS = {"total_seconds": 4.0, "peak_gib_overall": 10.0}


def measure(
    pipeline: Stage2Pipeline,
    prepared: PreparedImage,
    multiview: MultiviewResult,
    options: GenerationOptions,
    runs: int,
) -> dict[str, Any]:
    """The first run by itself, and the medians of those after it."""
    totals, assets, peaks = [], [], []
    for _ in range(runs + 1):
        start = time.perf_counter()
        assets.append(pipeline(prepared, multiview, options))
        totals.append(time.perf_counter() - start)
        peaks.append(pipeline.peak_bytes)
    asset, timed = assets[-1], assets[1:]
    return {
        "first_run_seconds": round(totals[0], 3),
        "runs_seconds": [round(total, 3) for total in totals[1:]],
        "total_seconds": round(statistics.median(totals[1:]), 3),
        "seconds": {
            part: round(statistics.median(asset.timings[part] for asset in timed), 4)
            for part in asset.timings
        },
        "peak_gib": {part: _gib(value) for part, value in peaks[-1].items()},
        "peak_gib_overall": _gib(max(peaks[-1].values(), default=0)),
        "glb_bytes": len(asset.glb),
        "mesh": asdict(asset.statistics),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="random:official")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--extraction", default="native")
    parser.add_argument("--bodies", nargs="+", choices=BODIES, default=list(BODIES))
    parser.add_argument("--voxels", type=int, default=15_000)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--texture", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=3, help="timed runs after the first")
    parser.add_argument("--profile", action="store_true", help="one more run, by kind of kernel")
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error(f"--runs is {arguments.runs}: at least one run is timed")
    logging.basicConfig(level=logging.WARNING)

    start = time.perf_counter()
    pipeline = Stage2Pipeline.from_checkpoint(
        open_checkpoint(arguments.checkpoint),
        device=arguments.device,
        attention=arguments.attention,
        extraction=arguments.extraction,
    )
    load_seconds = time.perf_counter() - start
    networks = pipeline.networks
    prepared, multiview = subject(pipeline.method, arguments.voxels)
    options = GenerationOptions(stage2_steps=arguments.steps, texture_size=arguments.texture)
    cuda = pipeline.device.type == "cuda"
    report: dict[str, Any] = {
        "benchmark": "stage2",
        "device": torch.cuda.get_device_name(pipeline.device) if cuda else "cpu",
        "torch": torch.__version__,
        "checkpoint": arguments.checkpoint,
        "attention": current_backend().value,
        "sparse_convolution": current_sparse_backend().value,
        "extraction": arguments.extraction,
        "voxels": len(multiview.voxels),
        "steps": arguments.steps,
        "texture": arguments.texture,
        "load_seconds": round(load_seconds, 3),
        "weights_gib": _gib(_weight_bytes(pipeline)),
        "limits": LIMITS,
        "bodies": {},
    }
    for body in arguments.bodies:
        decoder = networks.mesh_decoder
        pipeline.networks = (
            replace(networks, mesh_decoder=KnownSurface(decoder)) if body == "person" else networks
        )
        found = measure(pipeline, prepared, multiview, options, arguments.runs)
        found["met"] = {name: found[name] <= limit for name, limit in LIMITS.items()}
        if arguments.profile:
            found["profile_ms"] = profile_by_category(
                lambda: pipeline(prepared, multiview, options), arguments.device
            )
        report["bodies"][body] = found
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")


def _weight_bytes(pipeline: Stage2Pipeline) -> int:
    networks = pipeline.networks
    parts = (
        networks.encoder.model,
        networks.flow,
        networks.gaussian_decoder,
        networks.mesh_decoder,
    )
    return sum(p.numel() * p.element_size() for part in parts for p in part.parameters())


def _gib(size: int) -> float:
    return round(size / 2**30, 3)


if __name__ == "__main__":
    main()
