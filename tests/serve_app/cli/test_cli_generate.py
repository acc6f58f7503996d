"""serve_app/cli/generate.py: pictures into folders, with pipelines of the test's own making."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.contracts import (
    Asset,
    GenerationOptions,
    MeshStatistics,
    Mode,
    MultiviewResult,
    OutputFormat,
    PreparedImage,
    Progress,
)
from deployments.errors import GenerationError, InputError
from serve_app.cli import generate, main

SIDE = 4


class Bench:
    """Pipelines that make tiny results and remember what they were asked."""

    def __init__(self) -> None:
        self.options: list[GenerationOptions] = []
        self.modes: list[Mode] = []
        self.preview_fails = False
        self.full = True

    def load(self, arguments: Any, mode: Mode) -> generate.Pipelines:
        self.modes.append(mode)
        full = self.full and mode is not Mode.STAGE1_ONLY
        return generate.Pipelines(
            checkpoint="bench",
            preprocess=self.preprocess,
            stage1=self.stage1,
            stage2=self.stage2 if full else None,
            preview=self.preview,
            stage2_reason=None if full else "no Stage 2 on this bench",
        )

    def preprocess(self, data: bytes) -> PreparedImage:
        if data == b"nobody":
            raise InputError("the picture shows nothing", code="no_subject")
        rgba, flat = np.zeros((SIDE, SIDE, 4), np.uint8), np.zeros((SIDE, SIDE, 3), np.uint8)
        return PreparedImage(rgba, rgba, flat, flat, flat, 0.5, ("cut off",))

    def stage1(
        self, prepared: PreparedImage, options: GenerationOptions, *, progress: Any
    ) -> MultiviewResult:
        self.options.append(options)
        for step in range(options.stage1_steps + 1):
            progress(Progress("stage1", step, options.stage1_steps, "sampling"))
        views = np.zeros((5, SIDE, SIDE, 3), np.uint8)
        return MultiviewResult(
            views, views, np.zeros((0, 3), np.int16), 64, options.seed, options.stage1_steps
        )

    def stage2(self, prepared: Any, multiview: Any, options: Any, *, progress: Any) -> Asset:
        statistics = MeshStatistics(8, 12, True, True, 1, 0.1, 64, 0.5)
        return Asset(b"glb", b"ply", statistics)

    def preview(self, multiview: Any, options: Any) -> bytes:
        if self.preview_fails:
            raise GenerationError("no voxels", code="empty_mesh")
        return b"preview"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench()
    monkeypatch.setattr(generate, "load_pipelines", made.load)
    return made


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "anna.png"
    path.write_bytes(b"a photo")
    return path


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


STAGE1 = {
    "manifest.json",
    "stage1/input.png",
    *(f"stage1/{kind}_{view}.png" for kind in ("color", "normal") for view in range(5)),
}


def test_one_picture_fills_the_folder(bench: Bench, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["generate", str(photo), "-o", str(out)]) == 0
    assert files_in(out) == STAGE1 | {"stage2/output.glb", "stage2/output_mesh.ply"}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["checkpoint"] == "bench"
    assert manifest["input_sha256"] == hashlib.sha256(b"a photo").hexdigest()
    assert manifest["warnings"] == ["cut off"]
    glb = manifest["files"]["stage2/output.glb"]
    assert glb["sha256"] == hashlib.sha256(b"glb").hexdigest()


def test_several_pictures_get_a_folder_each_and_one_load(
    bench: Bench, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = tmp_path / "nobody.png"
    nobody.write_bytes(b"nobody")
    out = tmp_path / "out"
    words = [str(nobody), str(photo), str(tmp_path / "missing.png")]
    assert main(["generate", *words, "-o", str(out)]) == 1
    assert len(bench.modes) == 1
    assert {path.name for path in out.iterdir()} == {"anna"}
    error = capsys.readouterr().err
    assert "shows nothing" in error
    assert "there is no file" in error


def test_flags_reach_the_samplers(bench: Bench, photo: Path, tmp_path: Path) -> None:
    line = (
        "--stage1-steps 30 --stage2-steps 40 --seed 7 --guidance 2 --texture-size 512 "
        "--simplify 0.5 --target-faces 900 --formats obj,splats --graceful-fallback"
    )
    assert main(["generate", str(photo), "-o", str(tmp_path / "out"), *line.split()]) == 0
    assert bench.options == [
        GenerationOptions(
            mode=Mode.GRACEFUL_FALLBACK,
            stage1_steps=30,
            stage2_steps=40,
            seed=7,
            guidance=2.0,
            texture_size=512,
            simplify=0.5,
            target_faces=900,
            formats=(OutputFormat.OBJ, OutputFormat.SPLATS),
        )
    ]


def test_an_option_out_of_range_is_status_2(
    bench: Bench, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(photo), "--simplify", "2"]) == 2
    assert "simplify is '2': must be 0 to 0.99" in capsys.readouterr().err
    assert bench.options == []


def test_stage1_only_has_a_preview(bench: Bench, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["generate", str(photo), "-o", str(out), "--stage1-only"]) == 0
    assert files_in(out) == STAGE1 | {"stage1/preview.glb"}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["stages"]["stage2"]["status"] == "skipped"


def test_a_preview_that_fails_is_a_warning(bench: Bench, photo: Path, tmp_path: Path) -> None:
    bench.preview_fails = True
    out = tmp_path / "out"
    assert main(["generate", str(photo), "-o", str(out), "--stage1-only"]) == 0
    assert files_in(out) == STAGE1
    warnings = json.loads((out / "manifest.json").read_text())["warnings"]
    assert warnings == ["cut off", "no preview.glb: no voxels"]


def test_fallback_says_why(
    bench: Bench, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.full = False
    out = tmp_path / "out"
    assert main(["generate", str(photo), "-o", str(out), "--graceful-fallback"]) == 0
    assert "no Stage 2 on this bench" in capsys.readouterr().err
    assert (out / "stage1" / "preview.glb").exists()
