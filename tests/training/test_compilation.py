"""Compiled blocks give the losses and gradients of plain ones, or there are none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deployments.checkpoints.component import Component
from deployments.stage1.models.config import JointModelConfig
from training.compilation import compile_blocks, lay_out
from training.joint_network import BatchedJointModel, Conditions
from training.networks import start
from training.run import Run


@pytest.fixture
def flow(toy_run: Run) -> BatchedJointModel:
    torch.manual_seed(0)
    config = JointModelConfig.from_dict(toy_run.configs.arguments(Component.JOINT_MODEL))
    flow: BatchedJointModel = start(BatchedJointModel(config))
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.05)
    lay_out(flow)
    return flow


def gradients(flow: BatchedJointModel) -> dict[str, torch.Tensor]:
    """Of a sum over both outputs, with the same inputs at every call."""
    flow.zero_grad()
    generator, config = torch.Generator().manual_seed(1), flow.config

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    size = config.sample_size
    conditions = Conditions(
        prompts=drawn(10, 77, config.cross_attention_dim),
        pictures=drawn(2, 2, config.projection_class_embeddings_input_dim),
        latents=drawn(2, 2, 4, size, size),
        condition=drawn(2, 9, config.cond_channels),
    )
    structure = drawn(2, config.trellis_in_channels, *[config.resolution] * 3)
    outputs = flow.velocities(
        drawn(2, 5, 2, 4, size, size), structure, torch.tensor([0.3, 0.8]), conditions
    )
    sum(output.square().mean() for output in outputs).backward()
    return {name: p.grad for name, p in flow.named_parameters() if p.grad is not None}


def test_compiled_blocks_have_the_same_gradients(flow: BatchedJointModel) -> None:
    expected = {name: value.clone() for name, value in gradients(flow).items()}
    assert compile_blocks(flow, lambda: gradients(flow), backend="aot_eager")
    found = gradients(flow)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        largest = expected[name].abs().max().item()
        torch.testing.assert_close(value, expected[name], atol=1e-3 * largest + 1e-7, rtol=1e-3)


def test_where_a_compiler_fails_blocks_stay_as_they_were(
    flow: BatchedJointModel, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> None:
        raise RuntimeError("no such machine")

    assert not compile_blocks(flow, lambda: gradients(flow), backend=broken)
    assert "no such machine" in capsys.readouterr().out
    assert gradients(flow)
