from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deployments.contracts import GenerationOptions, OutputFormat, TextureFormat
from deployments.stage2.finishing import finish, finish_again
from deployments.stage2.gaussians import Gaussians

GAUSSIAN = Gaussians(
    np.zeros((1, 3), np.float32),
    np.full((1, 3), 0.1, np.float32),
    np.array([[1, 0, 0, 0]], np.float32),
    np.ones(1, np.float32),
    np.full((1, 3), 0.5, np.float32),
)


def test_the_asset_reports_what_was_measured(figure: Any) -> None:
    asset = finish(
        figure.mesh,
        figure.multiview,
        GenerationOptions(texture_size=512, target_faces=2500),
        provenance={"seed": 43},
    )
    statistics = asset.statistics
    assert statistics.faces == pytest.approx(2500, abs=2)
    assert statistics.watertight
    assert statistics.edge_manifold
    assert statistics.bodies == 1
    assert statistics.volume == pytest.approx(figure.mesh.volume(), rel=0.01)
    assert statistics.texture_size == 512
    assert 0.9 < statistics.texels_seen < 1.0
    assert set(asset.timings) == {"clean", "decimate", "unwrap", "bake", "export"}
    length = int.from_bytes(asset.glb[12:16], "little")
    assert json.loads(asset.glb[20 : 20 + length])["asset"]["extras"]["provenance"] == {"seed": 43}


def test_every_option_has_an_effect(figure: Any) -> None:
    def made(**options: Any) -> Any:
        base: dict[str, Any] = {"texture_size": 256, "simplify": 0.9}
        return finish(
            figure.mesh,
            figure.multiview,
            GenerationOptions(**{**base, **options}),
            gaussians=GAUSSIAN,
        )

    plain = made()
    assert plain.statistics.faces == pytest.approx(0.1 * len(figure.mesh.faces), abs=2)
    assert (plain.splats_ply, plain.obj_zip) == (None, None)
    assert made(simplify=0.8).statistics.faces > 1.9 * plain.statistics.faces
    assert made(target_faces=300).statistics.faces == pytest.approx(300, abs=2)
    assert b"image/webp" in made(texture_format=TextureFormat.WEBP).glb
    extra = made(formats=(OutputFormat.SPLATS, OutputFormat.OBJ))
    assert extra.splats_ply.startswith(b"ply\n")
    assert extra.obj_zip.startswith(b"PK")


def test_an_asset_can_be_finished_again(figure: Any) -> None:
    options = GenerationOptions(texture_size=256, simplify=0.9, formats=(OutputFormat.SPLATS,))
    first = finish(
        figure.mesh, figure.multiview, options, gaussians=GAUSSIAN, provenance={"seed": 43}
    )
    again = finish_again(first.surface, figure.multiview, options)
    assert again.glb == first.glb
    assert again.mesh_ply == first.mesh_ply
    assert again.splats_ply == first.splats_ply
    other = replace(options, texture_size=512, target_faces=300, formats=(OutputFormat.OBJ,))
    export = finish_again(first.surface, figure.multiview, other)
    assert export.statistics.faces == pytest.approx(300, abs=2)
    assert export.statistics.texture_size == 512
    assert export.splats_ply is None
    assert export.obj_zip.startswith(b"PK")
