"""Parameters in half for the length of a call, gradients in their own precision."""

from __future__ import annotations

import torch
from torch import nn

from training.half import in_half


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("shift", torch.full((3,), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.shift


def test_values_are_half_and_gradients_are_not() -> None:
    torch.manual_seed(0)
    network, x = Network(), torch.randn(5, 4).bfloat16()
    y = in_half(network, torch.bfloat16, x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    found = [p.grad for p in network.linear.parameters()]
    assert network.unused.grad is None
    assert network.linear.weight.dtype == torch.float32
    network.zero_grad()
    network(x.float()).square().sum().backward()
    for gradient, parameter in zip(found, network.linear.parameters(), strict=True):
        assert gradient is not None
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, parameter.grad, atol=0.1, rtol=0.03)


def test_without_a_cast_it_is_a_plain_call() -> None:
    network, x = Network(), torch.randn(5, 4)
    torch.testing.assert_close(in_half(network, torch.float32, x), network(x), atol=0, rtol=0)
