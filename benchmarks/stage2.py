"""Time and memory of every part of Stage 2, from voxels and views to files, as JSON.

    python benchmarks/stage2.py --checkpoint random:official --device cuda
    python benchmarks/stage2.py --checkpoint random:small --voxels 1500 --texture 1024

The subject is a body of capsules, so that voxels and pictures belong together.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.checkpoints.checkpoint import open_checkpoint
from deployments.checkpoints.method import MethodConfig
from deployments.contracts import GenerationOptions, MultiviewResult, PreparedImage
from deployments.layers.attention import current_backend
from deployments.layers.sparse.backend import current_sparse_backend
from deployments.stage2.pipeline import Stage2Pipeline

# Ends of bones (x, y, z) and radii, in the cube of model.md 3.
BODY = (
    ((0, 0, 0.38), (0, 0, 0.42), 0.07),  # head
    ((0, 0, 0.05), (0, 0, 0.25), 0.10),  # trunk
    ((0.12, 0, 0.25), (0.30, 0.02, 0.0), 0.04),  # arms
    ((-0.12, 0, 0.25), (-0.30, 0.02, 0.0), 0.04),
    ((0.06, 0, 0.02), (0.09, 0.01, -0.44), 0.06),  # legs
    ((-0.06, 0, 0.02), (-0.09, 0.01, -0.44), 0.06),
)


def distance_to_body(grid: int) -> NDArray[np.float32]:
    """Signed distance of every cell's centre to the body's surface (G, G, G)."""
    centres = (np.moveaxis(np.indices((grid,) * 3), 0, -1) + 0.5) / grid - 0.5
    nearest = np.full((grid,) * 3, np.inf)
    for start, end, radius in BODY:
        a, bone = np.array(start), np.subtract(end, start)
        along = ((centres - a) @ bone / (bone @ bone)).clip(0, 1)
        nearest = np.minimum(
            nearest, np.linalg.norm(centres - a - along[..., None] * bone, axis=-1) - radius
        )
    return nearest.astype(np.float32)


def subject(method: MethodConfig, voxels: int) -> tuple[PreparedImage, MultiviewResult]:
    """The ``voxels`` cells nearest to the body's surface, and five pictures of it."""
    distance = distance_to_body(method.voxel_grid)
    shell = np.argsort(np.abs(distance), axis=None)[:voxels]
    coords = np.stack(np.unravel_index(np.sort(shell), distance.shape), axis=-1)

    size = method.picture_size
    fine = distance_to_body(96) < 0
    cells = np.arange(size) * 96 // size
    color = np.full((5, size, size, 3), 255, np.uint8)
    for view, axis in enumerate((1, 0, 1, 0)):
        silhouette = fine.any(axis=axis).T[::-1][cells][:, cells]  # rows from the top
        color[view][silhouette] = (60 * view + 40, 120, 200 - 40 * view)
    third = cells[size // 3 : 2 * size // 3].repeat(3)[:size]
    face = fine.any(axis=1).T[::-1][cells[: size // 3].repeat(3)][:, third]
    color[4][face] = (200, 160, 140)
    normal = np.where(color == 255, color, 128).astype(np.uint8)

    condition = np.zeros((method.condition_size, method.condition_size, 3), np.uint8)
    rgba = np.concatenate([color[0], np.full_like(color[0, ..., :1], 255)], axis=-1)
    prepared = PreparedImage(rgba, rgba, color[0], color[4], condition, 0.3)
    result = MultiviewResult(
        color, normal, coords.astype(np.int16), method.voxel_grid, seed=43, steps=50
    )
    return prepared, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="random:official")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--extraction", default="native")
    parser.add_argument("--voxels", type=int, default=15_000)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--texture", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=3, help="timed runs after the first")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)

    start = time.perf_counter()
    pipeline = Stage2Pipeline.from_checkpoint(
        open_checkpoint(arguments.checkpoint),
        device=arguments.device,
        attention=arguments.attention,
        extraction=arguments.extraction,
    )
    load_seconds = time.perf_counter() - start
    prepared, multiview = subject(pipeline.method, arguments.voxels)
    options = GenerationOptions(stage2_steps=arguments.steps, texture_size=arguments.texture)

    totals, assets = [], []
    for _ in range(arguments.runs + 1):
        start = time.perf_counter()
        assets.append(pipeline(prepared, multiview, options))
        totals.append(time.perf_counter() - start)
    asset, timed = assets[-1], assets[1:] or assets
    cuda = pipeline.device.type == "cuda"
    report = {
        "benchmark": "stage2",
        "device": torch.cuda.get_device_name(pipeline.device) if cuda else "cpu",
        "torch": torch.__version__,
        "checkpoint": arguments.checkpoint,
        "attention": current_backend().value,
        "sparse_convolution": current_sparse_backend().value,
        "extraction": arguments.extraction,
        "voxels": len(multiview.voxels),
        "steps": arguments.steps,
        "load_seconds": round(load_seconds, 3),
        "first_run_seconds": round(totals[0], 3),
        "total_seconds": round(statistics.median(totals[1:] or totals), 3),
        "seconds": {
            part: round(statistics.median(asset.timings[part] for asset in timed), 4)
            for part in asset.timings
        },
        "weights_gib": _gib(_weight_bytes(pipeline)),
        "peak_gib": {part: _gib(value) for part, value in pipeline.peak_bytes.items()},
        "peak_gib_overall": _gib(max(pipeline.peak_bytes.values(), default=0)),
        "glb_bytes": len(asset.glb),
        "mesh": asdict(asset.statistics),
    }
    print(json.dumps(report, indent=2))


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
