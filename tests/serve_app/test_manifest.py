"""serve_app/manifest.py and serve_app/result_files.py: what a result is made of."""

from __future__ import annotations

import io
import json

import numpy as np
from PIL import Image

from deployments.contracts import (
    Asset,
    GenerationOptions,
    MeshStatistics,
    MultiviewResult,
    PreparedImage,
)
from serve_app.manifest import FileFacts, build_manifest
from serve_app.result_files import stage1_files, stage2_files

SIDE = 8


def views(start: int) -> np.ndarray:
    pictures = np.zeros((5, SIDE, SIDE, 3), np.uint8)
    pictures[:] = np.arange(start, start + 5, dtype=np.uint8)[:, None, None, None]
    return pictures


def test_the_manifest_tells_how_to_make_it_again() -> None:
    document = json.loads(
        build_manifest(
            job_id="a1",
            checkpoint="embedded",
            options=GenerationOptions(seed=7),
            stages={"stage1": {"status": "completed", "timings": {"sample": 1.5}}},
            files={"stage2/output.glb": FileFacts(3, "ab"), "stage1/input.png": FileFacts(1, "cd")},
            input_sha256="ef",
            warnings=("the feet are cut off",),
        )
    )
    assert document["seed"] == 7
    assert document["checkpoint"] == "embedded"
    assert document["options"]["stage1_steps"] == 50
    assert list(document["files"]) == ["stage1/input.png", "stage2/output.glb"]
    assert document["files"]["stage2/output.glb"] == {"bytes": 3, "sha256": "ab"}
    assert document["stages"]["stage1"]["timings"] == {"sample": 1.5}
    assert document["warnings"] == ["the feet are cut off"]
    assert {"python", "torch", "ray"} <= set(document["versions"])


def test_stage1_files_hold_the_right_pictures() -> None:
    flat = np.zeros((SIDE, SIDE, 3), np.uint8)
    rgba = np.full((SIDE, SIDE, 4), 77, np.uint8)
    prepared = PreparedImage(rgba, rgba, flat, flat, flat, 0.5)
    result = MultiviewResult(views(10), views(20), np.zeros((0, 3), np.int16), 64, 43, 50)
    files = stage1_files(prepared, result)
    assert set(files) == {
        "input.png",
        *(f"{kind}_{view}.png" for kind in ("color", "normal") for view in range(5)),
    }
    for name, data in files.items():
        picture = np.asarray(Image.open(io.BytesIO(data)))
        kind, _, view = name.removesuffix(".png").partition("_")
        expected = 77 if kind == "input" else (10 if kind == "color" else 20) + int(view)
        assert (picture == expected).all(), name


def test_stage2_files_are_what_was_made() -> None:
    statistics = MeshStatistics(8, 12, True, True, 1, 0.1, 64, 0.5)
    assert stage2_files(Asset(b"glb", b"ply", statistics)) == {
        "output.glb": b"glb",
        "output_mesh.ply": b"ply",
    }
    everything = stage2_files(
        Asset(b"glb", b"ply", statistics, splats_ply=b"splats", obj_zip=b"obj")
    )
    assert everything["output_splats.ply"] == b"splats"
    assert everything["output_obj.zip"] == b"obj"
