from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.checkpoints.checkpoint import open_checkpoint
from deployments.contracts import GenerationOptions, MultiviewResult, PreparedImage, Progress
from deployments.errors import Cancelled, GenerationError
from deployments.preprocess.pipeline import PreprocessPipeline
from deployments.stage1.pipeline import Stage1Pipeline

SAMPLE = Path(__file__).parents[3] / "serve_app" / "sample" / "person.png"
OPTIONS = GenerationOptions(stage1_steps=2, seed=5)
Run = Callable[..., MultiviewResult]


@pytest.fixture(scope="module")
def pipeline() -> Stage1Pipeline:
    return Stage1Pipeline.from_checkpoint(open_checkpoint("random:small"), device="cpu")


@pytest.fixture(scope="module")
def prepared(pipeline: Stage1Pipeline) -> PreparedImage:
    return PreprocessPipeline(pipeline.method)(SAMPLE.read_bytes())


@pytest.fixture(scope="module")
def result(pipeline: Stage1Pipeline, prepared: PreparedImage) -> MultiviewResult:
    return pipeline(prepared, OPTIONS)


def test_result_has_five_views_and_voxels_in_order(
    result: MultiviewResult, pipeline: Stage1Pipeline
) -> None:
    size = pipeline.method.picture_size
    assert result.color.shape == result.normal.shape == (5, size, size, 3)
    assert result.color.dtype == result.normal.dtype == np.uint8
    assert result.voxels.dtype == np.int16
    assert result.grid == pipeline.method.voxel_grid
    order = np.lexsort(result.voxels.T[::-1])
    assert (order == np.arange(len(result.voxels))).all()
    assert set(result.timings) == {"encode", "sample", "decode"}


def test_the_same_seed_gives_the_same_bytes(
    pipeline: Stage1Pipeline, prepared: PreparedImage, result: MultiviewResult
) -> None:
    again = pipeline(prepared, OPTIONS)
    assert (again.color == result.color).all()
    assert (again.normal == result.normal).all()
    assert np.array_equal(again.voxels, result.voxels)


@pytest.mark.parametrize("change", [{"seed": 6}, {"stage1_steps": 3}, {"guidance": 1.0}], ids=str)
def test_every_option_has_an_effect(
    pipeline: Stage1Pipeline,
    prepared: PreparedImage,
    result: MultiviewResult,
    change: dict[str, float],
) -> None:
    other = pipeline(prepared, replace(OPTIONS, **change))  # type: ignore[arg-type]
    assert (other.color[1:] != result.color[1:]).any()


def test_guidance_defaults_to_the_checkpoint_s(
    pipeline: Stage1Pipeline, prepared: PreparedImage, result: MultiviewResult
) -> None:
    given = pipeline(prepared, replace(OPTIONS, guidance=pipeline.method.guidance))
    assert (given.color == result.color).all()


def test_a_checkpoint_may_start_from_quieter_noise(
    pipeline: Stage1Pipeline, prepared: PreparedImage, result: MultiviewResult
) -> None:
    method = replace(pipeline.method, noise_scales=(0.0, 0.0, 0.0))
    quiet = Stage1Pipeline(pipeline.encoders, pipeline.stepper, pipeline.structure_decoder, method)
    without = quiet(prepared, OPTIONS)
    assert (without.color[1:] != result.color[1:]).any()
    assert (quiet(prepared, replace(OPTIONS, seed=6)).color == without.color).all()


def test_progress_and_cancel_reach_the_sampler(
    pipeline: Stage1Pipeline, prepared: PreparedImage
) -> None:
    told: list[Progress] = []
    with pytest.raises(Cancelled):
        pipeline(prepared, OPTIONS, progress=told.append, cancelled=lambda: len(told) > 1)
    assert [(p.step, p.steps) for p in told] == [(0, 2), (1, 2)]


def test_an_empty_structure_is_an_error_with_the_seed(
    pipeline: Stage1Pipeline, prepared: PreparedImage
) -> None:
    bias = pipeline.structure_decoder.out_layer[2].bias
    assert isinstance(bias, torch.Tensor)
    kept = bias.clone()
    bias.sub_(1e6)
    try:
        with pytest.raises(GenerationError, match="no occupied voxel with seed 5") as error:
            pipeline(prepared, OPTIONS)
    finally:
        bias.copy_(kept)
    assert error.value.code == "empty_structure"
