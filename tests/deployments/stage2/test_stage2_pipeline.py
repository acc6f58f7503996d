from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from deployments.checkpoints.checkpoint import open_checkpoint
from deployments.contracts import (
    GenerationOptions,
    MultiviewResult,
    OutputFormat,
    PreparedImage,
    Progress,
)
from deployments.errors import BackendError, Cancelled, GenerationError
from deployments.stage2.pipeline import Stage2Pipeline

OPTIONS = GenerationOptions(stage2_steps=2, texture_size=512, seed=5)


@pytest.fixture(scope="module")
def pipeline() -> Stage2Pipeline:
    return Stage2Pipeline.from_checkpoint(open_checkpoint("random:small"), device="cpu")


@pytest.fixture(scope="module")
def prepared(pipeline: Stage2Pipeline) -> PreparedImage:
    size, condition = pipeline.method.picture_size, pipeline.method.condition_size
    generator = np.random.default_rng(0)
    rgba = generator.integers(0, 255, (size, size, 4), dtype=np.uint8)
    square = generator.integers(0, 255, (condition, condition, 3), dtype=np.uint8)
    return PreparedImage(rgba, rgba, rgba[..., :3], rgba[..., :3], square, 0.5)


@pytest.fixture(scope="module")
def multiview(pipeline: Stage2Pipeline) -> MultiviewResult:
    """An upright ellipsoid of voxels and five pictures that show it."""
    grid, size = pipeline.method.voxel_grid, pipeline.method.picture_size
    x, y, z = (np.indices((grid,) * 3) + 0.5) / grid - 0.5
    radius = np.sqrt((x / 0.2) ** 2 + (y / 0.15) ** 2 + (z / 0.4) ** 2)
    voxels = np.argwhere((radius < 1) & (radius > 0.6)).astype(np.int16)
    pictures = np.full((5, size, size, 3), 255, np.uint8)
    pictures[:, size // 8 : -size // 8, size // 3 : -size // 3] = (200, 90, 60)
    return MultiviewResult(pictures, pictures, voxels, grid, seed=5, steps=50)


def test_an_asset_comes_out_with_its_statistics_timings_and_progress(
    pipeline: Stage2Pipeline, prepared: PreparedImage, multiview: MultiviewResult
) -> None:
    seen: list[Progress] = []
    options = replace(OPTIONS, formats=(OutputFormat.SPLATS,))
    asset = pipeline(prepared, multiview, options, progress=seen.append)
    assert asset.glb[:4] == b"glTF"
    assert asset.mesh_ply[:3] == asset.splats_ply[:3] == b"ply"  # type: ignore[index]
    assert asset.statistics.watertight
    assert asset.statistics.texture_size == 512
    assert {"condition", "latent_flow", "views", "gaussians", "surface", "extraction"} < set(
        asset.timings
    )
    assert [step.step for step in seen] == sorted(step.step for step in seen)
    assert seen[0].step == 0
    assert seen[-1].step == seen[-1].steps
    assert sum(step.message == "sampling latents" for step in seen) == options.stage2_steps + 1


def latents(
    pipeline: Stage2Pipeline,
    prepared: PreparedImage,
    multiview: MultiviewResult,
    options: GenerationOptions,
) -> torch.Tensor:
    """What the mesh decoder is given."""
    kept: list[torch.Tensor] = []

    def keep(_: object, inputs: tuple[object, ...]) -> None:
        kept.append(inputs[0].feats)  # type: ignore[attr-defined]
        raise Cancelled()  # the rest of the run is of no interest here

    hook = pipeline.networks.mesh_decoder.register_forward_pre_hook(keep)
    try:
        with pytest.raises(Cancelled):
            pipeline(prepared, multiview, options)
    finally:
        hook.remove()
    return kept[0]


def test_seed_steps_and_guidance_have_an_effect_and_repeat(
    pipeline: Stage2Pipeline, prepared: PreparedImage, multiview: MultiviewResult
) -> None:
    first = latents(pipeline, prepared, multiview, OPTIONS)
    assert torch.equal(first, latents(pipeline, prepared, multiview, OPTIONS))
    for options in (
        replace(OPTIONS, seed=6),
        replace(OPTIONS, stage2_steps=3),
        replace(OPTIONS, stage2_guidance=1.0),
    ):
        other = latents(pipeline, prepared, multiview, options)
        assert (other - first).abs().max() > 1e-3


def test_a_checkpoint_may_start_from_quieter_noise(
    pipeline: Stage2Pipeline, prepared: PreparedImage, multiview: MultiviewResult
) -> None:
    method = replace(pipeline.method, stage2_noise_scale=0.0)
    quiet = Stage2Pipeline(pipeline.networks, method, device=pipeline.device)
    first, other = (
        latents(quiet, prepared, multiview, replace(OPTIONS, seed=seed)) for seed in (5, 6)
    )
    assert torch.equal(first, other)


def test_it_stops_between_steps_when_cancelled(
    pipeline: Stage2Pipeline, prepared: PreparedImage, multiview: MultiviewResult
) -> None:
    seen: list[Progress] = []
    with pytest.raises(Cancelled):
        pipeline(
            prepared, multiview, OPTIONS, progress=seen.append, cancelled=lambda: len(seen) >= 4
        )
    # condition announced, condition done, sampling announced, first step done; no second step
    assert [step.step for step in seen] == [0, 1, 1, 2]


def test_no_voxels_are_an_error_with_the_seed(
    pipeline: Stage2Pipeline, prepared: PreparedImage, multiview: MultiviewResult
) -> None:
    empty = replace(multiview, voxels=np.empty((0, 3), np.int16))
    with pytest.raises(GenerationError, match=r"no occupied voxel .seed 5") as caught:
        pipeline(prepared, empty, OPTIONS)
    assert caught.value.code == "empty_structure"


def test_voxels_of_another_grid_are_refused(
    pipeline: Stage2Pipeline, prepared: PreparedImage, multiview: MultiviewResult
) -> None:
    with pytest.raises(GenerationError, match=r"a grid of 64.* works in 32") as caught:
        pipeline(prepared, replace(multiview, grid=64), OPTIONS)
    assert caught.value.code == "grid_mismatch"


def test_an_unknown_extraction_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(BackendError):
        Stage2Pipeline.from_checkpoint(
            open_checkpoint("random:small"), device="cpu", extraction="marching-cubes"
        )
