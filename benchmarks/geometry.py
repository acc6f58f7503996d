"""How good and how fast is the way from the decoder's voxels to the GLB, measured on known people.

    python benchmarks/geometry.py --subjects 5 --texture 2048

Prints JSON: per subject the PSNR (dB, on the common foreground) of the four views, the face and six
directions that no picture shows, the same with every picture shifted by two pixels, the chamfer
distance (1e-4 of the cube; one voxel is 39), the volume against the truth, manifold counts and
seconds; then the summary with the limits that it has to meet.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from benchmarks.synthetic_truth import (
    RESOLUTION,
    SIZE,
    UNSEEN,
    Picture,
    Subject,
    make_subject,
    project_direction,
    sample_surface,
    shifted,
)
from deployments.contracts import Asset, GenerationOptions
from deployments.stage2.finishing import finish
from deployments.stage2.mesh.extraction import extract_mesh
from deployments.stage2.mesh.surface import Mesh
from deployments.stage2.orientation import TO_FILE
from deployments.stage2.texture.rasterizer import interpolate, rasterize
from deployments.stage2.texture.views import VIEWS
from deployments.stage2.warm_up import warm_up
from training.people.generator import People

SAMPLES = 2  # a side, as in the truth
SHIFT = 2  # pixels
LIMITS = {"views_db": 34.0, "unseen_db": 30.0, "shifted_unseen_db": 28.0, "seconds": 6.0}


class Result:
    """A finished GLB, read back from its bytes and put into the volume's frame."""

    def __init__(self, glb: bytes) -> None:
        (loaded,) = trimesh.load_scene(io.BytesIO(glb), file_type="glb").geometry.values()
        self.vertices = np.asarray(loaded.vertices) @ TO_FILE
        self.faces = np.asarray(loaded.faces, np.int32)
        self.uv = np.asarray(loaded.visual.uv, np.float32)
        texture = loaded.visual.material.baseColorTexture.convert("RGB")
        self.texture = np.asarray(texture, np.float32) / 255

    def draw(
        self, column: NDArray[np.float64], row: NDArray[np.float64], depth: NDArray[np.float64]
    ) -> Picture:
        """The texture alone, without light, on white; columns and rows at SIZE * SAMPLES pixels."""
        fine = SIZE * SAMPLES
        raster = rasterize(column, row, depth, self.faces, (fine, fine))
        uv = interpolate(raster, self.faces, self.uv)
        last = len(self.texture) - 1.001
        x = np.clip(uv[:, 0] * len(self.texture) - 0.5, 0, last)
        y = np.clip((1 - uv[:, 1]) * len(self.texture) - 0.5, 0, last)
        left, top = x.astype(int), y.astype(int)
        u, v = (x - left)[:, None], (y - top)[:, None]
        canvas = np.ones((fine, fine, 3), np.float32)
        canvas[raster.covered] = (
            self.texture[top, left] * (1 - u) * (1 - v)
            + self.texture[top, left + 1] * u * (1 - v)
            + self.texture[top + 1, left] * (1 - u) * v
            + self.texture[top + 1, left + 1] * u * v
        )
        blocks = (SIZE, SAMPLES, SIZE, SAMPLES)
        return Picture(
            canvas.reshape(*blocks, 3).mean(axis=(1, 3)),
            raster.covered.astype(np.float32).reshape(blocks).mean(axis=(1, 3)),
        )

    def view(self, number: int) -> Picture:
        """As stored picture `number` shows it."""
        return self.draw(*VIEWS[number].project(self.vertices, SIZE * SAMPLES))

    def direction(self, azimuth: float, elevation: float) -> Picture:
        """From a direction that no picture shows."""
        points = torch.from_numpy(self.vertices)
        column, row, depth = project_direction(points, azimuth, elevation, SIZE * SAMPLES).numpy().T
        return self.draw(column - 0.5, row - 0.5, depth)


def psnr(result: Picture, truth: Picture) -> float:
    """Peak signal-to-noise ratio in dB where both show the subject fully."""
    common = (result.mask > 0.99) & (truth.mask > 0.99)
    error = (result.color - truth.color)[common] ** 2
    return float(10 * np.log10(1 / max(error.mean(), 1e-12)))


def chamfer(mesh: Mesh, truth: Mesh) -> float:
    """Mean distance between the two surfaces, both ways, in 1e-4 of the cube.

    Measured to the plane of the nearest of a million samples, so that their spacing drops out.
    """

    def one_way(source: Mesh, target: Mesh) -> float:
        points, _ = sample_surface(source, 100_000)
        samples, normals = sample_surface(target, 1_000_000, seed=1)
        nearest = cKDTree(samples, balanced_tree=False).query(points, workers=-1)[1]
        return float(np.abs(((points - samples[nearest]) * normals[nearest]).sum(axis=1)).mean())

    return 1e4 * (one_way(mesh, truth) + one_way(truth, mesh)) / 2


def run(subject: Subject, texture: int) -> tuple[Asset, Asset, dict[str, float]]:
    """Voxels to GLB, the same with shifted pictures, and the seconds of the first."""
    start = time.perf_counter()
    mesh = extract_mesh(subject.coords, subject.features, RESOLUTION, colours=False)
    seconds = {"extract": time.perf_counter() - start}
    options = GenerationOptions(texture_size=texture)
    asset = finish(mesh, subject.multiview, options)
    moved = finish(mesh, shifted(subject.multiview, SHIFT, subject.multiview.seed), options)
    seconds.update(asset.timings)
    return asset, moved, {**seconds, "total": sum(seconds.values())}


def measure(subject: Subject, texture: int, keep: Path | None) -> dict[str, Any]:
    """Everything about one subject."""
    asset, moved, seconds = run(subject, texture)
    result, result_moved = Result(asset.glb), Result(moved.glb)
    if keep is not None:
        (keep / f"subject_{subject.multiview.seed}.glb").write_bytes(asset.glb)

    def unseen(of: Result) -> float:
        found = [of.direction(*angles) for angles in UNSEEN]
        return float(np.mean([psnr(a, b) for a, b in zip(found, subject.unseen, strict=True)]))

    surface = Mesh(result.vertices.astype(np.float32), result.faces)
    statistics = asset.statistics
    return {
        "voxels": len(subject.coords),
        "views_db": float(np.mean([psnr(result.view(k), subject.views[k]) for k in range(4)])),
        "face_db": psnr(result.view(4), subject.views[4]),
        "unseen_db": unseen(result),
        "shifted_unseen_db": unseen(result_moved),
        "chamfer_1e-4": chamfer(surface, subject.surface),
        "volume": statistics.volume,
        "volume_truth": subject.surface.volume(),
        "faces": statistics.faces,
        "vertices": statistics.vertices,
        "watertight": statistics.watertight,
        "edge_manifold": statistics.edge_manifold,
        "bodies": statistics.bodies,
        "texels_seen": statistics.texels_seen,
        "glb_kb": len(asset.glb) // 1024,
        "seconds": seconds,
    }


def summary(subjects: list[dict[str, Any]]) -> dict[str, Any]:
    """Means, and whether every limit is met."""
    means = {
        name: float(np.mean([subject[name] for subject in subjects]))
        for name in ("views_db", "face_db", "unseen_db", "shifted_unseen_db", "chamfer_1e-4")
    }
    seconds = float(np.median([subject["seconds"]["total"] for subject in subjects]))
    watertight = sum(subject["watertight"] for subject in subjects)
    met = {
        **{name: means[name] >= LIMITS[name] for name in LIMITS if name in means},
        "watertight": watertight == len(subjects),
        "seconds": seconds <= LIMITS["seconds"],
    }
    return {
        **means,
        "watertight": f"{watertight} of {len(subjects)}",
        "seconds_median": seconds,
        "limits": LIMITS,
        "met": met,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--subjects", type=int, default=5)
    parser.add_argument("--texture", type=int, default=2048)
    parser.add_argument("--keep", type=Path, help="folder for the GLBs")
    arguments = parser.parse_args()
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    warm_up()
    people = People()
    subjects = []
    for number in range(arguments.subjects):
        found = measure(make_subject(people, number), arguments.texture, arguments.keep)
        print(f"subject {number}: {json.dumps(found)}", file=sys.stderr, flush=True)
        subjects.append(found)
    report = {
        "texture": arguments.texture,
        "torch_threads": torch.get_num_threads(),
        "subjects": subjects,
        "summary": summary(subjects),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
