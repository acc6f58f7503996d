from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from deployments.checkpoints.checkpoint import open_checkpoint
from deployments.checkpoints.component import Component
from deployments.layers.dinov2 import DinoV2, build_dinov2


@pytest.fixture(scope="module")
def dinov2() -> DinoV2:
    return DinoV2.from_checkpoint(
        open_checkpoint("random:small"), device="cpu", dtype=torch.float32
    )


@pytest.fixture(scope="module")
def library(dinov2: DinoV2) -> Any:
    """The same weights in transformers' own network."""
    config = open_checkpoint("random:small").config(Component.DINOV2)
    model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**config)).eval()
    model.load_state_dict(dinov2.model.state_dict())
    return model


def pictures(count: int, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    return (pixels - mean) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@torch.inference_mode()
def test_condition_equals_the_library_before_its_final_norm(dinov2: DinoV2, library: Any) -> None:
    """At the table's own size transformers computes the same tokens in its own way."""
    picture = pictures(1, 126)
    pixels = normalised(torch.from_numpy(picture).permute(0, 3, 1, 2).float() / 255)
    hidden = library(pixels, output_hidden_states=True).hidden_states[-1]

    condition = dinov2.condition(picture)

    assert condition.shape == (1, 1 + 4 + 81, 64)
    assert condition.dtype == torch.float32
    torch.testing.assert_close(
        condition, F.layer_norm(hidden, (64,), eps=1e-5), atol=1e-4, rtol=1e-4
    )


@torch.inference_mode()
def test_features_equal_the_library_s_normed_layers(dinov2: DinoV2, library: Any) -> None:
    views = torch.rand(2, 3, 192, 192, generator=torch.Generator().manual_seed(1))
    pixels = normalised(F.interpolate(views, size=(448, 448), mode="bilinear"))
    states = library(pixels, output_hidden_states=True).hidden_states
    expected = torch.cat([library.layernorm(states[k + 1])[:, 5:] for k in range(4)], dim=-1)

    features = dinov2.multiview_features(views)

    assert features.shape == (2, 32, 32, 256)
    torch.testing.assert_close(features.flatten(1, 2), expected, atol=1e-4, rtol=1e-4)


def test_the_table_is_kept_at_its_own_size_and_resized_otherwise(dinov2: DinoV2) -> None:
    stored = dinov2.model.embeddings.position_embeddings

    assert torch.equal(dinov2.position_table(9), stored)
    larger = dinov2.position_table(32)
    assert larger.shape == (1, 1 + 32 * 32, 64)
    assert torch.equal(larger[:, 0], stored[:, 0])
    assert dinov2.position_table(32) is larger


@torch.inference_mode()
def test_layers_may_be_any_subset(dinov2: DinoV2) -> None:
    views = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    some = DinoV2(dinov2.model, feature_size=126, feature_layers=(0, 2))
    every = DinoV2(dinov2.model, feature_size=126, feature_layers=(0, 1, 2, 3))

    few, many = some.multiview_features(views), every.multiview_features(views)

    torch.testing.assert_close(few, torch.cat([many[..., :64], many[..., 128:192]], dim=-1))


@pytest.mark.parametrize(("size", "layers"), [(100, (0,)), (126, (4,))])
def test_impossible_read_outs_are_refused(size: int, layers: tuple[int, ...]) -> None:
    config = {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 28}
    with pytest.raises(ValueError, match="layers count from 0"):
        DinoV2(build_dinov2(config), feature_size=size, feature_layers=layers)
