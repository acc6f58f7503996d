"""Random draws on the device that keep their generator: one object passed down the people code."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Dice:
    """Draws for a batch of ``count`` subjects; same seed and device, same people."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.generator = generator
        self.device = generator.device

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        """(count, *shape) uniform in [low, high)."""
        draws = torch.rand(self.count, *shape, generator=self.generator, device=self.device)
        return low + (high - low) * draws

    def normal(self, deviation: float, *shape: int) -> torch.Tensor:
        """(count, *shape) Gaussian about 0."""
        draws = torch.randn(self.count, *shape, generator=self.generator, device=self.device)
        return deviation * draws

    def chance(self, probability: float) -> torch.Tensor:
        """(count,) bool."""
        return self.uniform(0, 1) < probability

    def choice(self, shares: Sequence[float], *shape: int) -> torch.Tensor:
        """(count, *shape) int64 numbers drawn in proportion to the shares."""
        edges = torch.tensor(shares, device=self.device).cumsum(0)
        return torch.bucketize(self.uniform(0, 1, *shape) * edges[-1], edges[:-1], right=True)

    def integers(self, low: int, high: int, *shape: int) -> torch.Tensor:
        """(count, *shape) int64 in low..high-1."""
        return torch.randint(
            low, high, (self.count, *shape), generator=self.generator, device=self.device
        )
