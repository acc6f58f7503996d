from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from deployments.checkpoints.random import PRESETS_DIRECTORY
from deployments.errors import CheckpointError
from deployments.stage1.models.config import JointModelConfig, SyncConfig

CONFIG = "OneStage/SyncHuman_2D3DCrossSpaceDiffusion/config.json"


def preset(name: str) -> dict[str, Any]:
    return json.loads((PRESETS_DIRECTORY / name / CONFIG).read_text())


def test_defaults_are_the_official_values() -> None:
    assert JointModelConfig.from_dict(preset("official")) == JointModelConfig()


def test_fields_of_training_and_unknown_ones_are_ignored() -> None:
    extra = {"decay": 0.9999, "use_ema_warmup": False, "use_fp16": True, "something_new": [1]}
    assert JointModelConfig.from_dict(preset("official") | extra) == JointModelConfig()


@pytest.mark.parametrize(
    ("field", "value"), [("act_fn", "gelu"), ("share_mod", True), ("selfattn_block", "custom")]
)
def test_a_network_that_is_not_implemented_is_refused(field: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f"{field} = {value!r}") as error:
        JointModelConfig.from_dict({field: value})
    assert error.value.code == "checkpoint_config"


def test_sync_widths_and_sizes_are_read() -> None:
    sync = JointModelConfig.from_dict(preset("small")).sync
    assert (sync.structure_pixels, sync.image_pixels, sync.flow_splits) == (12, 6, (2, 4))


def test_an_unknown_name_under_sync_is_refused() -> None:
    with pytest.raises(CheckpointError, match="head_dims"):
        SyncConfig.from_dict({"head_dims": 3})


def test_sizes_at_which_nothing_would_be_exchanged_are_refused() -> None:
    with pytest.raises(CheckpointError, match="structure_pixels = 20"):
        replace(JointModelConfig(), sync=replace(SyncConfig(), structure_pixels=20))


def test_attention_sizes_must_be_divisible_for_the_face_blend() -> None:
    with pytest.raises(CheckpointError, match="multiples of 3, got"):
        replace(JointModelConfig(), sample_size=64)


def test_levels_must_agree() -> None:
    with pytest.raises(CheckpointError, match="4 levels"):
        replace(JointModelConfig(), attention_head_dim=(5, 10))
