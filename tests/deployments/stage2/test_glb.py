from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from deployments.contracts import TextureFormat
from deployments.stage2.glb import to_glb
from deployments.stage2.mesh.cleaning import decimate
from deployments.stage2.mesh.unwrap import Atlas, unwrap
from deployments.stage2.texture.bake import bake

TESTS = Path(__file__).resolve().parents[2]


def _validator_missing() -> str:
    if shutil.which("node") is None:
        return "node is not installed"
    if not (TESTS / "node_modules" / "gltf-validator").is_dir():
        return "the glTF validator is not installed: npm ci --prefix tests"
    return ""


@pytest.fixture(scope="module")
def parts(figure: Any) -> tuple[Any, Atlas, np.ndarray]:
    mesh = decimate(figure.mesh, target_faces=2000)
    atlas = unwrap(mesh, 256)
    views = figure.multiview
    return mesh, atlas, bake(mesh, atlas, views.color, views.normal, 256).pixels


def _glb(parts: tuple[Any, Atlas, np.ndarray], texture: TextureFormat = TextureFormat.PNG) -> bytes:
    return to_glb(
        *parts, name="synchuman", provenance={"seed": 43, "of": "Zoë"}, texture_format=texture
    )


def _document(glb: bytes) -> dict[str, Any]:
    length = int.from_bytes(glb[12:16], "little")
    document: dict[str, Any] = json.loads(glb[20 : 20 + length])
    return document


@pytest.mark.skipif(bool(_validator_missing()), reason=_validator_missing())
@pytest.mark.parametrize("texture", list(TextureFormat))
def test_the_khronos_validator_finds_no_error_and_no_warning(
    parts: tuple[Any, Atlas, np.ndarray], texture: TextureFormat, tmp_path: Path
) -> None:
    file = tmp_path / "figure.glb"
    file.write_bytes(_glb(parts, texture))
    done = subprocess.run(
        ["node", str(TESTS / "gltf_validator.mjs"), str(file)],
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout)
    assert (report["numErrors"], report["numWarnings"]) == (0, 0), report["messages"]


def test_the_subject_stands_upright_and_faces_plus_z(
    parts: tuple[Any, Atlas, np.ndarray],
) -> None:
    """The figure's one arm is on its left: +x, as in the volume; up is y; the front is +z."""
    mesh = trimesh.load(io.BytesIO(_glb(parts)), file_type="glb", force="mesh", process=False)
    assert np.ptp(mesh.vertices, axis=0).argmax() == 1
    assert mesh.vertices[:, 0].max() > 0.3
    arm = mesh.vertices[:, 0] > 0.3
    assert mesh.vertices[arm, 2].mean() > 0.03  # it points forward a little, -y in the volume
    assert mesh.volume > 0


def test_texture_and_coordinates_belong_together(
    parts: tuple[Any, Atlas, np.ndarray], figure: Any
) -> None:
    loaded = trimesh.load(io.BytesIO(_glb(parts)), file_type="glb", force="mesh", process=False)
    picture = np.asarray(loaded.visual.material.baseColorTexture.convert("RGB"), float)
    column = (loaded.visual.uv[:, 0] * 255).round().astype(int)
    row = ((1 - loaded.visual.uv[:, 1]) * 255).round().astype(int)
    volume = np.stack((loaded.vertices[:, 0], -loaded.vertices[:, 2], loaded.vertices[:, 1]), 1)
    error = np.abs(picture[row, column] - figure.paint(volume))
    assert np.median(error) < 4.0


def test_nothing_is_left_to_the_format_s_defaults(parts: tuple[Any, Atlas, np.ndarray]) -> None:
    document = _document(_glb(parts))
    material = document["materials"][0]["pbrMetallicRoughness"]
    assert (material["metallicFactor"], material["roughnessFactor"]) == (0.0, 1.0)
    assert document["asset"]["extras"] == {
        "name": "synchuman",
        "provenance": {"seed": 43, "of": "Zoë"},
    }
    assert set(document["meshes"][0]["primitives"][0]["attributes"]) == {
        "POSITION",
        "NORMAL",
        "TEXCOORD_0",
    }


def test_normals_are_continuous_across_seams(parts: tuple[Any, Atlas, np.ndarray]) -> None:
    mesh, atlas, _ = parts
    glb = _glb(parts)
    document = _document(glb)
    view = document["bufferViews"][document["accessors"][1]["bufferView"]]
    start = 20 + int.from_bytes(glb[12:16], "little") + 8 + view["byteOffset"]
    stored = np.frombuffer(glb[start : start + view["byteLength"]], "<f4").reshape(-1, 3)
    assert len(atlas.source) > len(mesh.vertices)
    order = np.argsort(atlas.source, kind="stable")
    same = np.diff(atlas.source[order]) == 0
    normals = stored[order]
    assert np.allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-5)
    assert np.allclose(normals[1:][same], normals[:-1][same], atol=1e-6)


def test_webp_is_smaller_and_required(parts: tuple[Any, Atlas, np.ndarray]) -> None:
    png, webp = _glb(parts), _glb(parts, TextureFormat.WEBP)
    assert len(webp) < len(png)
    document = _document(webp)
    assert document["extensionsRequired"] == ["EXT_texture_webp"]
    assert document["images"][0]["mimeType"] == "image/webp"
