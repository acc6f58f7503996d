from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest
import trimesh

from deployments.stage2.export import to_obj_zip, to_ply, to_splats
from deployments.stage2.gaussians import Gaussians
from deployments.stage2.mesh.cleaning import decimate
from deployments.stage2.mesh.unwrap import unwrap
from deployments.stage2.orientation import to_file


def test_the_ply_mesh_keeps_shape_and_vertex_colours(figure: Any) -> None:
    mesh = decimate(figure.mesh, target_faces=1000)
    colours = figure.paint(mesh.vertices).astype(np.uint8)
    loaded = trimesh.load(io.BytesIO(to_ply(mesh, colours)), file_type="ply", process=False)
    assert np.array_equal(loaded.faces, mesh.faces)
    assert np.allclose(loaded.vertices, to_file(mesh.vertices))
    assert np.array_equal(loaded.visual.vertex_colors[:, :3], colours)
    assert loaded.is_watertight


def _splats() -> Gaussians:
    rng = np.random.default_rng(0)
    rotation = rng.normal(size=(50, 4))
    return Gaussians(
        rng.uniform(-0.5, 0.5, (50, 3)).astype(np.float32),
        rng.uniform(0.001, 0.01, (50, 3)).astype(np.float32),
        (rotation / np.linalg.norm(rotation, axis=1, keepdims=True)).astype(np.float32),
        rng.uniform(0, 1, 50).astype(np.float32),
        rng.uniform(0, 1, (50, 3)).astype(np.float32),
    )


def _read(ply: bytes) -> np.ndarray:
    header, _, body = ply.partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 50"]
    names = [line.split()[2] for line in lines[3:]]
    assert all(line.startswith("property float ") for line in lines[3:])
    return np.frombuffer(body, [(name, "<f4") for name in names])


def test_splats_have_the_layout_that_viewers_expect() -> None:
    splats = _read(to_splats(_splats()))
    expected = "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2"
    assert " ".join(splats.dtype.names) == f"{expected} rot_0 rot_1 rot_2 rot_3"


def test_splats_come_back_after_their_activations() -> None:
    source = _splats()
    splats = _read(to_splats(source))
    assert 1 / (1 + np.exp(-splats["opacity"])) == pytest.approx(source.opacity, abs=1e-5)
    for i in range(3):
        assert np.exp(splats[f"scale_{i}"]) == pytest.approx(source.scale[:, i], rel=1e-5)
        colour = 0.28209479 * splats[f"f_dc_{i}"] + 0.5
        assert colour == pytest.approx(source.color[:, i], abs=1e-6)


def test_splats_turn_with_their_positions() -> None:
    """Covariances of the file equal the turned covariances of the source."""
    source = _splats()
    splats = _read(to_splats(source))
    written = Gaussians(
        np.stack([splats[c] for c in "xyz"], 1),
        np.exp(np.stack([splats[f"scale_{i}"] for i in range(3)], 1)),
        np.stack([splats[f"rot_{i}"] for i in range(4)], 1),
        source.opacity,
        source.color,
    )
    turn = to_file(np.eye(3)).T
    assert np.allclose(written.xyz, source.xyz @ turn.T, atol=1e-6)
    expected = turn @ source.covariance() @ turn.T
    assert np.allclose(written.covariance(), expected, atol=1e-8)


def test_the_obj_archive_opens_with_its_texture(figure: Any) -> None:
    mesh = decimate(figure.mesh, target_faces=1000)
    atlas = unwrap(mesh, 128)
    texture = np.full((128, 128, 3), (10, 200, 30), np.uint8)
    with zipfile.ZipFile(io.BytesIO(to_obj_zip(mesh, atlas, texture, name="figure"))) as archive:
        assert sorted(archive.namelist()) == ["figure.mtl", "figure.obj", "figure.png"]
        files = {name: archive.read(name) for name in archive.namelist()}
    loaded = trimesh.load(
        io.BytesIO(files["figure.obj"]),
        file_type="obj",
        process=False,
        resolver=trimesh.resolvers.ZipResolver(
            {name: io.BytesIO(content) for name, content in files.items()}
        ),
    )
    assert len(loaded.faces) == len(mesh.faces)
    assert loaded.volume == pytest.approx(mesh.volume(), rel=1e-3)
    assert np.asarray(loaded.visual.material.image)[0, 0, :3].tolist() == [10, 200, 30]
