"""Sparse layers under training equal the deployed ones, and so do their gradients."""

from __future__ import annotations

import torch
from torch import nn

from deployments.layers.sparse.convolution import SubmanifoldConv3d, convolve_torch
from deployments.layers.sparse.normalization import SparseGroupNorm
from deployments.layers.sparse.sites import Sites
from training.convolution import TrainedConv3d, TrainedGroupNorm, make_trainable


def some_sites() -> Sites:
    generator = torch.Generator().manual_seed(3)
    return Sites((torch.rand(2, 5, 5, 5, generator=generator) < 0.4).nonzero().int(), batch=2)


def filled(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.2)
    return layer


def test_layers_are_swapped_in_place() -> None:
    layers = nn.ModuleList([SubmanifoldConv3d(3, 4), SparseGroupNorm(2, 4), nn.Linear(4, 4)])
    before = layers.state_dict()
    make_trainable(layers)
    assert [type(layer) for layer in layers] == [TrainedConv3d, TrainedGroupNorm, nn.Linear]
    assert layers.state_dict().keys() == before.keys()


def test_convolution_has_the_gradients_of_the_plain_sum() -> None:
    sites = some_sites()
    layer = filled(TrainedConv3d(3, 4))
    feats = torch.randn(len(sites), 3, requires_grad=True)
    wanted = [feats, *layer.parameters()]
    tables = sites.neighbours, sites.subdivided.neighbours >> 3
    for found, table in (
        (layer(feats, sites), tables[0]),
        (layer.on_children(feats, sites), tables[1]),
    ):
        expected = convolve_torch(feats, layer.conv["weight"], layer.conv["bias"], table)
        torch.testing.assert_close(found, expected)
        weights = torch.randn_like(found)
        torch.testing.assert_close(
            torch.autograd.grad((found * weights).sum(), wanted),
            torch.autograd.grad((expected * weights).sum(), wanted),
        )


def test_group_norm_equals_the_deployed_one_item_by_item() -> None:
    sites = some_sites()
    plain = filled(SparseGroupNorm(2, 8))
    trained = TrainedGroupNorm(2, 8)
    trained.load_state_dict(plain.state_dict())
    feats = torch.randn(len(sites), 8) + 2
    torch.testing.assert_close(trained(feats, sites), plain(feats, sites), atol=1e-5, rtol=1e-5)
