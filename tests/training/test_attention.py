"""Attention layers under training equal the deployed ones, and their gradients are right."""

from __future__ import annotations

import torch
from torch import nn

from deployments.layers.attention.gathered import as_picks
from deployments.stage1.models.attention import CrossAttention
from deployments.stage1.models.multiview_block import JointDomainAttention
from training.attention import (
    TrainedCrossAttention,
    TrainedJointDomainAttention,
    make_attention_trainable,
)


def test_layers_are_swapped_in_place() -> None:
    layers = nn.ModuleList([CrossAttention(8, 6, 2, 4), JointDomainAttention(8, 2, 5)])
    before = layers.state_dict()
    make_attention_trainable(layers)
    assert [type(layer) for layer in layers] == [TrainedCrossAttention, TrainedJointDomainAttention]
    assert layers.state_dict().keys() == before.keys()


def test_reading_has_the_values_and_gradients_of_the_deployed_one() -> None:
    torch.manual_seed(0)
    deployed = CrossAttention(16, 12, heads=2, head_dim=8)
    trained = TrainedCrossAttention(16, 12, heads=2, head_dim=8)
    trained.load_state_dict(deployed.state_dict())
    x, context = torch.randn(3, 70, 16), torch.randn(3, 9, 12)
    picks = as_picks(torch.randint(0, 9, (70, 5)))  # some places twice
    weights = torch.randn(3, 70, 16)
    results, gradients = [], []
    for layer in (deployed, trained):
        inputs = [x.clone().requires_grad_(), context.clone().requires_grad_()]
        read = layer.read(*inputs, picks)
        results.append(read)
        wanted = [*inputs, *layer.parameters()]
        gradients.append(torch.autograd.grad((read * weights).sum(), wanted))
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


def test_the_face_blends_with_the_gradients_of_finite_differences() -> None:
    torch.manual_seed(0)
    layer = TrainedJointDomainAttention(4, heads=2, views=5).double()
    x = torch.randn(10, 9, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    deployed = JointDomainAttention(4, heads=2, views=5).double()
    deployed.load_state_dict(layer.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(layer(x), deployed(x))
