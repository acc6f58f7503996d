"""How real pictures come out: photo to GLB, its front outline against the picture's own alpha.

    python -m benchmarks.photos --out photos/ ../shared/samples/photos/*.png

There is no truth for the other sides, so they are drawn for people to look at: ``photos.png`` has a
row a picture, the prepared photo, the generated colours and the four sides of the GLB.
``photos.json`` has the outlines' overlap of the GLB and of the generated front normals, the
agreement of voxels and views, and whether the mesh is one watertight body.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.geometry import Result
from benchmarks.quality import (
    SIZE,
    Pipelines,
    Pixels,
    drawn_sides,
    overlap,
    resized,
    silhouette,
    voxel_agreement,
)
from deployments.contracts import GenerationOptions

MUST_REACH = 0.80  # overlap of the GLB's front outline with the picture's alpha


def measure(
    pipelines: Pipelines, photo: bytes, options: GenerationOptions
) -> tuple[dict[str, float], Pixels]:
    """Measures of one picture, and its row (10, SIZE, SIZE, 3)."""
    prepared = pipelines.preprocess(photo)
    alpha = np.repeat(prepared.rgba[None, ..., 3:], 3, -1)
    outline = resized(alpha)[0, ..., 0] > 0.5
    views = pipelines.stage1(prepared, options)
    color, normal = resized(views.color), resized(views.normal)
    asset = pipelines.stage2(prepared, views, options)
    renders, outlines = drawn_sides(Result(asset.glb))
    sound = asset.statistics.watertight and asset.statistics.bodies == 1
    values = {
        "silhouette_front": overlap(outlines[0], outline),
        "silhouette_normals": overlap(silhouette(normal)[0], outline),
        "agreement": voxel_agreement(views),
        "sound": float(sound),
    }
    return values, np.concatenate([resized(prepared.front[None]), color, renders])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("photos"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    pipelines = Pipelines(arguments.checkpoint, arguments.device, without_sync=False)
    options = GenerationOptions(texture_size=1024)
    found: dict[str, dict[str, float]] = {}
    rows: list[Pixels] = []
    for photo in arguments.photos:
        found[photo.name], row = measure(pipelines, photo.read_bytes(), options)
        rows.append(row.transpose(1, 0, 2, 3).reshape(SIZE, -1, 3))
        sheet = (np.concatenate(rows).clip(0, 1) * 255).astype(np.uint8)
        Image.fromarray(sheet).save(arguments.out / "photos.png")
        report = {"checkpoint": arguments.checkpoint, "must_reach": MUST_REACH, "photos": found}
        (arguments.out / "photos.json").write_text(json.dumps(report, indent=1) + "\n")
        print(photo.name, {name: round(value, 3) for name, value in found[photo.name].items()})


if __name__ == "__main__":
    main()
