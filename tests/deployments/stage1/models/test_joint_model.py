from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deployments.stage1.models.config import JointModelConfig, SyncConfig
from deployments.stage1.models.joint_model import Conditioning, JointModel

CONFIG = JointModelConfig(
    sample_size=12,
    block_out_channels=(32, 32, 32),
    down_block_types=("CrossAttnDownBlockMV2D", "CrossAttnDownBlockMV2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlockMV2D", "CrossAttnUpBlockMV2D"),
    layers_per_block=1,
    attention_head_dim=(1, 2, 2),
    cross_attention_dim=8,
    projection_class_embeddings_input_dim=16,
    resolution=4,
    model_channels=32,
    cond_channels=8,
    num_blocks=3,
    num_heads=2,
    sync=SyncConfig(
        ss_dims=(32, 32),
        mv_dim=32,
        structure_dim=32,
        heads=2,
        dim_head=8,
        structure_pixels=6,
        image_pixels=3,
        flow_splits=(1, 2),
    ),
)


@pytest.fixture(scope="module")
def model() -> JointModel:
    torch.manual_seed(0)
    return JointModel(CONFIG).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def conditioning() -> Conditioning:
    torch.manual_seed(1)
    return Conditioning(
        prompts=torch.randn(10, 3, 8),
        pictures=torch.randn(10, 16),
        latents=torch.randn(10, 4, 12, 12),
        condition=torch.randn(1, 5, 8),
    )


def noise() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    return torch.randn(10, 4, 12, 12), torch.randn(1, 8, 4, 4, 4)


def test_one_branch_is_the_conditional_half_of_two(
    model: JointModel, conditioning: Conditioning
) -> None:
    both = model.step(*noise(), model.prepare(conditioning, [500.0], guided=True), 0)
    alone = model.step(*noise(), model.prepare(conditioning, [500.0], guided=False), 0)
    assert both[0].shape == (2, 10, 4, 12, 12)
    assert both[1].shape == (2, 8, 4, 4, 4)
    for two, one in zip(both, alone, strict=True):
        torch.testing.assert_close(two[1:], one, atol=1e-5, rtol=1e-4)


def test_the_unconditional_branch_sees_the_prompt_but_not_the_person(
    model: JointModel, conditioning: Conditioning
) -> None:
    def unconditional(shown: Conditioning) -> torch.Tensor:
        return model.step(*noise(), model.prepare(shown, [500.0], guided=True), 0)[0][0]

    person = replace(
        conditioning,
        pictures=conditioning.pictures + 1,
        latents=conditioning.latents + 1,
        condition=conditioning.condition + 1,
    )
    prompt = replace(conditioning, prompts=conditioning.prompts + 1)
    torch.testing.assert_close(unconditional(person), unconditional(conditioning))
    assert not torch.allclose(unconditional(prompt), unconditional(conditioning))


def test_a_step_takes_its_own_time(model: JointModel, conditioning: Conditioning) -> None:
    several = model.prepare(conditioning, [900.0, 500.0, 100.0], guided=True)
    single = model.prepare(conditioning, [500.0], guided=True)
    for a, b in zip(
        model.step(*noise(), several, torch.tensor(1)), model.step(*noise(), single, 0), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_pictures_and_structure_read_each_other(
    model: JointModel, conditioning: Conditioning
) -> None:
    prepared = model.prepare(conditioning, [500.0], guided=False)
    pictures, structure = noise()
    v, h = model.step(pictures, structure, prepared, 0)
    other_v, _ = model.step(pictures, structure + 1, prepared, 0)
    _, other_h = model.step(pictures + 1, structure, prepared, 0)
    assert not torch.allclose(v, other_v)
    assert not torch.allclose(h, other_h)


def test_layout_for_speed_changes_neither_keys_nor_results(conditioning: Conditioning) -> None:
    torch.manual_seed(0)
    model = JointModel(CONFIG).eval().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = model.step(*noise(), model.prepare(conditioning, [500.0], guided=True), 0)
    model.prepare_for_inference()
    found = model.step(*noise(), model.prepare(conditioning, [500.0], guided=True), 0)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
