"""How well a checkpoint makes people: photo to GLB on held-out synthetic people, against the truth.

    python -m benchmarks.quality --checkpoint embedded --people 8 --out quality/

Bodies, poses and clothes were never trained on; seeds are fixed. Writes ``quality.json`` and
``contact.png`` (a row each for result and truth: photo, colours, normals, renders of the GLB; the
worst, the median and the best people by the overlap of the GLB's four outlines).
Silhouettes of renders and truth follow one rule, a coverage over one half; generated pictures have
no coverage, there any channel of the normal map below 230 is the person. ``--without-sync``
silences the blocks in which pictures and structure read each other.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

from benchmarks.geometry import Result
from deployments.checkpoints.checkpoint import open_checkpoint
from deployments.contracts import GenerationOptions, MultiviewResult
from deployments.errors import GenerationError
from deployments.preprocess.pipeline import PreprocessPipeline
from deployments.stage1.pipeline import Stage1Pipeline
from deployments.stage2.mesh.surface import Mesh
from deployments.stage2.pipeline import Stage2Pipeline
from deployments.stage2.texture.views import VIEWS
from training.people.generator import People
from training.people.pose import STYLES

PHOTO = 768  # pixels of the input picture
SIZE = 192  # pixels a side at which pictures are compared
SILHOUETTE = 230  # any channel of a normal map below this is the person
POINTS = 20_000  # on each surface
F_DISTANCE = 0.02  # of the height, which is the side of the cube
SEEN_BY_BOTH = 0.3  # cosine to both cameras
SEEN_DEPTH = 0.01  # of the cube
NAMES = ("front", "right", "back", "left", "face")
TARGETS = {
    "silhouette_front": 0.90, "silhouette_back": 0.88, "silhouette_sides": 0.70,
    "psnr_front": 22.0, "psnr_back": 18.0, "psnr_sides": 13.0,
    "degrees_front_back": 22.0, "degrees_sides": 32.0,
    "agreement": 0.90, "chamfer": 0.03, "f_score": 0.70, "sound": 60 / 64,
}  # fmt: skip

Pixels = NDArray[np.float32]  # (5 or 4, SIZE, SIZE, 3), 0..1
Masks = NDArray[np.bool_]


@dataclass(frozen=True)
class Truth:
    """One person as the generator knows it."""

    photo: bytes  # PNG with alpha
    color: Pixels
    normal: Pixels
    mask: Masks  # (5, SIZE, SIZE) covered by more than one half
    vertices: NDArray[np.float32]
    faces: NDArray[np.int64]


def make_truth(people: People, number: int) -> Truth:
    """Person ``number``; the same on every machine."""
    generator = torch.Generator().manual_seed(50_000 + number)
    styles = list(STYLES)
    style = styles[number % len(styles)] if number % 2 else "relaxed"
    mesh, wear = people.sample(1, generator, held_out=True, style=style)
    views = people.views(mesh, wear, SIZE)
    photo = people.photograph(mesh, wear, PHOTO, generator)
    alpha = photo.mask[0, 0]
    rgba = torch.cat([photo.color[0, 0] / alpha.clamp(min=1e-6), alpha]).clamp(0, 1)
    buffer = io.BytesIO()
    pixels = (rgba * 255 + 0.5).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels, "RGBA").save(buffer, "PNG")
    return Truth(
        buffer.getvalue(),
        views.color_on_white()[0].permute(0, 2, 3, 1).numpy(),
        views.normal_map_on_white()[0].permute(0, 2, 3, 1).numpy(),
        views.mask[0, :, 0].numpy() > 0.5,
        mesh.vertices[0].numpy(),
        mesh.faces.numpy(),
    )


def resized(pictures: NDArray[np.uint8]) -> Pixels:
    """(V, H, H, 3) uint8 -> (V, SIZE, SIZE, 3) in 0..1."""
    return np.stack(
        [
            np.asarray(Image.fromarray(p).resize((SIZE, SIZE), Image.Resampling.BOX), np.float32)
            for p in pictures
        ]
    ) / np.float32(255)


def silhouette(normal: Pixels) -> Masks:
    """(V, H, H): where a normal map shows the person."""
    return np.asarray((normal < SILHOUETTE / 255).any(-1))


def overlap(first: Masks, second: Masks) -> float:
    """Intersection over union."""
    return float((first & second).sum() / max((first | second).sum(), 1))


def psnr(result: Pixels, truth: Pixels, mask: Masks) -> float:
    """dB inside the mask."""
    error = np.square(result - truth)[mask].mean()
    return float(-10 * np.log10(max(error, 1e-10)))


def degrees(result: Pixels, truth: Pixels, mask: Masks) -> float:
    """Mean angle between two normal maps inside the mask."""
    a, b = result[mask] * 2 - 1, truth[mask] * 2 - 1
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(1) / np.maximum(lengths, 1e-6)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())


def voxel_agreement(views: MultiviewResult) -> float:
    """Overlap of the voxels' outlines, front and right, with the generated ones.

    A voxel is occupied when the surface touches it, so a cell of the picture counts when any of its
    pixels shows the person. The truth scores 0.97 to 1 against itself.
    """
    grid = views.grid
    occupied = np.zeros((grid,) * 3, bool)
    occupied[tuple(views.voxels.T)] = True
    outlines = (np.asarray(occupied.any(1)), np.asarray(occupied.any(0)))  # (x, z) and (y, z)
    scores = []
    for view, outline in enumerate(outlines):
        normal: Pixels = np.divide(views.normal[[view]], 255, dtype=np.float32)
        picture = Image.fromarray(silhouette(normal)[0])
        small = picture.convert("L").resize((grid, grid), Image.Resampling.BOX)
        scores.append(overlap(outline.T[::-1], np.asarray(small) > 0))
    return float(np.mean(scores))


def colour_agreement(result: Result, views: MultiviewResult) -> float:
    """PSNR in dB between two generated pictures at the surface points that both of them see.

    A point counts where the mesh turns more than a third towards both cameras and lies in front.
    """
    mesh = trimesh.Trimesh(result.vertices, result.faces, process=False)
    points, face = trimesh.sample.sample_surface(mesh, POINTS, seed=0)
    normals = mesh.face_normals[face]
    size = views.color.shape[1]
    colours, seen = [], []
    for view, picture in zip(VIEWS[:4], views.color, strict=False):
        raster = view.draw(Mesh(result.vertices.astype(np.float32), result.faces), size)
        column, row, depth = view.project(points, size)
        x, y = (np.clip(np.rint(v).astype(int), 0, size - 1) for v in (column, row))
        colours.append(picture[y, x].astype(np.float64) / 255)
        facing = normals @ np.array(view.toward_camera) > SEEN_BY_BOTH
        seen.append(facing & (depth < raster.depth[y, x] + SEEN_DEPTH))
    errors = [
        np.square(colours[a] - colours[b])[seen[a] & seen[b]] for a, b in combinations(range(4), 2)
    ]
    return float(-10 * np.log10(max(np.concatenate(errors).mean(), 1e-10)))


def drawn_sides(result: Result) -> tuple[Pixels, Masks]:
    """The GLB as the four body views show it (4, SIZE, SIZE, 3), and where it covers them."""
    drawn = [result.view(view) for view in range(4)]
    shown = np.stack([np.round(p.color * 255).astype(np.uint8) for p in drawn])
    coverage = np.stack([np.repeat(p.mask[..., None] * 255, 3, -1).astype(np.uint8) for p in drawn])
    return resized(shown), np.asarray(resized(coverage)[..., 0] > 0.5)


def surface_points(vertices: NDArray[Any], faces: NDArray[Any]) -> NDArray[np.float64]:
    """POINTS spread over a surface, always the same ones."""
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    points, _ = trimesh.sample.sample_surface(mesh, POINTS, seed=0)
    return np.asarray(points)


def distances(result: Result, truth: Truth) -> dict[str, float]:
    """Chamfer distance and F-score of the two surfaces."""
    found = surface_points(result.vertices, result.faces)
    real = surface_points(truth.vertices, truth.faces)
    to_real, to_found = cKDTree(real).query(found)[0], cKDTree(found).query(real)[0]
    precision, recall = (to_real < F_DISTANCE).mean(), (to_found < F_DISTANCE).mean()
    return {
        "chamfer": float((to_real.mean() + to_found.mean()) / 2),
        "f_score": float(2 * precision * recall / max(precision + recall, 1e-9)),
    }


class Pipelines:
    """A checkpoint's whole way from a photo to a GLB."""

    def __init__(self, name: str, device: str, *, without_sync: bool) -> None:
        checkpoint = open_checkpoint(name)
        self.preprocess = PreprocessPipeline(checkpoint.method)
        self.stage1 = Stage1Pipeline.from_checkpoint(checkpoint, device=device)
        self.stage2 = Stage2Pipeline.from_checkpoint(checkpoint, device=device)
        if without_sync:
            model = self.stage1.stepper.model
            blocks = (*model.dual_CrossAttblocks_SS, *model.dual_CrossAttblocks_MV)
            for block in blocks:
                for part, layer in block.named_children():
                    if part.startswith("output_layer"):
                        for parameter in layer.parameters():
                            parameter.zero_()


def measure(
    pipelines: Pipelines, truth: Truth, options: GenerationOptions
) -> tuple[dict[str, float], list[Pixels]]:
    """All measures of one person, and the pictures for the contact sheet."""
    start = time.perf_counter()
    prepared = pipelines.preprocess(truth.photo)
    views = pipelines.stage1(prepared, options)
    color, normal = resized(views.color), resized(views.normal)
    both = truth.mask & silhouette(normal)
    values = {"voxels": float(len(views.voxels)), "agreement": voxel_agreement(views)}
    for view, name in enumerate(NAMES):
        values[f"views_psnr_{name}"] = psnr(color[view], truth.color[view], truth.mask[view])
        values[f"degrees_{name}"] = degrees(normal[view], truth.normal[view], both[view])
    renders = np.ones((4, SIZE, SIZE, 3), np.float32)
    try:
        asset = pipelines.stage2(prepared, views, options)
    except GenerationError as error:
        print(f"no mesh: {error}", flush=True)
        values |= {"chamfer": 1.0, "f_score": 0.0, "sound": 0.0}
        outlines = np.zeros((4, SIZE, SIZE), bool)
        values["seconds"] = time.perf_counter() - start
    else:
        values["seconds"] = time.perf_counter() - start
        result = Result(asset.glb)
        renders, outlines = drawn_sides(result)
        values["colour_agreement"] = colour_agreement(result, views)
        statistics = asset.statistics
        sound = statistics.watertight and statistics.bodies == 1
        values |= distances(result, truth) | {"sound": float(sound)}
    for view, name in enumerate(NAMES[:4]):
        values[f"silhouette_{name}"] = overlap(outlines[view], truth.mask[view])
        values[f"psnr_{name}"] = psnr(renders[view], truth.color[view], truth.mask[view])
        common = truth.mask[view] & outlines[view]
        if common.any():
            values[f"psnr_common_{name}"] = psnr(renders[view], truth.color[view], common)
    photo = Image.open(io.BytesIO(truth.photo)).convert("RGBA")
    canvas = Image.new("RGBA", photo.size, "white")
    canvas.alpha_composite(photo)
    photo_row = resized(np.asarray(canvas.convert("RGB"))[None])
    return values, [
        np.concatenate([photo_row, color, normal, renders]),
        np.concatenate([photo_row, truth.color, truth.normal, truth.color[:4]]),
    ]


def summary(people: list[dict[str, float]]) -> dict[str, float]:
    """Means over all people, sides and pairs of views together as the targets name them."""
    if not people:
        return {}
    names = {name for person in people for name in person}
    mean = {
        name: float(np.mean([person[name] for person in people if name in person]))
        for name in sorted(names)
    }
    for kind in ("silhouette", "psnr", "psnr_common"):
        if f"{kind}_right" in mean:
            mean[f"{kind}_sides"] = (mean[f"{kind}_right"] + mean[f"{kind}_left"]) / 2
    mean["degrees_front_back"] = (mean["degrees_front"] + mean["degrees_back"]) / 2
    mean["degrees_sides"] = (mean["degrees_right"] + mean["degrees_left"]) / 2
    return mean


def contact_sheet(
    people: list[dict[str, float]], pictures: list[list[Pixels]], count: int
) -> Image.Image:
    """Two rows a person: the ``count`` worst, those around the median, the best, each once."""
    scores = [sum(person[f"silhouette_{name}"] for name in NAMES[:4]) for person in people]
    order = [int(place) for place in np.argsort(scores, kind="stable")]
    middle = max(0, (len(order) - count) // 2)
    parts = (order[:count], order[middle : middle + count], order[-count:])
    chosen = dict.fromkeys(place for part in parts for place in part)
    rows = [np.concatenate(list(row), axis=1) for place in chosen for row in pictures[place]]
    return Image.fromarray((np.concatenate(rows).clip(0, 1) * 255).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--people", type=int, default=64)
    parser.add_argument("--steps", type=int, nargs=2, default=(50, 25))
    parser.add_argument("--sheet", type=int, default=10, help="people of each kind on the sheet")
    parser.add_argument("--without-sync", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("quality"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    options = GenerationOptions(
        stage1_steps=arguments.steps[0], stage2_steps=arguments.steps[1], texture_size=1024
    )
    pipelines = Pipelines(
        arguments.checkpoint, arguments.device, without_sync=arguments.without_sync
    )
    people = People()
    results: list[dict[str, float]] = []
    sheets: list[list[Pixels]] = []
    empty: list[int] = []  # people whose volume stayed empty: nothing to measure, not in the means
    for number in range(arguments.people):
        try:
            values, pictures = measure(pipelines, make_truth(people, number), options)
            results.append(values)
            sheets.append(pictures)
        except GenerationError as error:
            print(f"no person: {error}", flush=True)
            empty.append(number)
        if results:
            contact_sheet(results, sheets, arguments.sheet).save(arguments.out / "contact.png")
        found = summary(results)
        report = {
            "checkpoint": arguments.checkpoint,
            "people": number + 1,
            "empty": empty,
            "without_sync": arguments.without_sync,
            "targets": TARGETS,
            "mean": found,
            "each": results,
        }
        (arguments.out / "quality.json").write_text(json.dumps(report, indent=1) + "\n")
        brief = {name: round(found[name], 3) for name in TARGETS if name in found}
        print(number, json.dumps(brief), flush=True)


if __name__ == "__main__":
    main()
