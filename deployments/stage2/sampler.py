"""Sampling of the latent flow: Euler steps with guidance inside an interval (model.md 12).

Pure functions over tensors: noise is given by the caller, nothing is drawn here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from deployments.errors import GenerationError
from deployments.layers.flow_schedule import flow_schedule
from deployments.layers.sparse.sites import Sites
from deployments.layers.sparse.tensor import SparseTensor
from deployments.stage2.models.latent_flow import LatentFlow

# (latent (N, C), time in [0, 1], whether the negative branch is wanted)
# -> velocity under the condition, velocity under the negative condition or None
Velocities = Callable[[Tensor, float, bool], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Guidance:
    """How far to move away from the negative condition, and while 1 = noise, 0 = data."""

    strength: float = 5.0  # 0 follows the condition alone
    interval: tuple[float, float] = (0.5, 1.0)  # times at which it acts, both ends included

    def acts_at(self, time: float) -> bool:
        """Whether the negative branch matters at this time."""
        low, high = self.interval
        return self.strength != 0 and low <= time <= high


@dataclass(frozen=True)
class Step:
    """One Euler step that was taken."""

    index: int  # 0 for the first
    time: float  # where it started
    velocity: Tensor  # (N, C) with guidance
    latent: Tensor  # (N, C) where it ended


def euler_steps(
    velocities: Velocities, noise: Tensor, *, steps: int, rescale_t: float, guidance: Guidance
) -> Iterator[Step]:
    """Go from ``noise`` (N, C) to a latent; the last step's ``latent`` is the sample.

    Raises GenerationError when a latent is not finite.
    """
    latent = noise
    for index, (time, following) in enumerate(pairwise(flow_schedule(steps, rescale_t))):
        velocity, negative = velocities(latent, time, guidance.acts_at(time))
        if negative is not None:
            velocity = (1 + guidance.strength) * velocity - guidance.strength * negative
        latent = latent - (time - following) * velocity
        if not bool(torch.isfinite(latent).all()):
            raise GenerationError(
                f"the Stage 2 latent is not finite after step {index + 1} of {steps}: "
                "try another seed or compute in float32",
                code="latent_not_finite",
            )
        yield Step(index, time, velocity, latent)


def flow_velocities(flow: LatentFlow, sites: Sites, condition: Tensor) -> Velocities:
    """Velocities of ``flow`` on ``sites`` under ``condition`` (B, L, C), and under zeros.

    Where both are wanted they run as one batch.
    """
    both = flow.context_keys(torch.cat([condition, torch.zeros_like(condition)]))
    positive = [keys[: condition.shape[0]] for keys in both]
    twice = sites.repeated(2)

    def velocities(latent: Tensor, time: float, negative: bool) -> tuple[Tensor, Tensor | None]:
        model_time = torch.tensor([1000 * time], dtype=torch.float32, device=latent.device)
        if not negative:
            return flow(SparseTensor(sites, latent), model_time, positive), None
        pair = SparseTensor(twice, torch.cat([latent, latent]))
        under_condition, under_zeros = flow(pair, model_time, both).chunk(2)
        return under_condition, under_zeros

    return velocities
