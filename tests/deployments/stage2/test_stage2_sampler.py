from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deployments.errors import GenerationError
from deployments.layers.flow_schedule import flow_schedule
from deployments.layers.sparse.sites import Sites
from deployments.layers.sparse.tensor import SparseTensor
from deployments.stage2.models.config import LatentFlowConfig
from deployments.stage2.models.latent_flow import LatentFlow
from deployments.stage2.sampler import Guidance, euler_steps, flow_velocities


def test_schedule_runs_from_one_to_zero_and_dwells_at_the_start() -> None:
    assert flow_schedule(4, 3.0) == pytest.approx([1.0, 0.9, 0.75, 0.5, 0.0])
    assert flow_schedule(5, 1.0) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])


def test_guidance_acts_on_19_of_the_25_official_steps() -> None:
    guidance = Guidance(5.0, (0.5, 1.0))
    assert sum(guidance.acts_at(time) for time in flow_schedule(25, 3.0)[:-1]) == 19
    assert guidance.acts_at(0.5)
    assert not Guidance(0.0, (0.0, 1.0)).acts_at(0.7)


def test_a_constant_velocity_field_is_followed_exactly() -> None:
    asked: list[tuple[float, bool]] = []

    def velocities(latent: Tensor, time: float, negative: bool) -> tuple[Tensor, Tensor | None]:
        asked.append((time, negative))
        return torch.full_like(latent, 2.0), torch.full_like(latent, 1.0) if negative else None

    noise = torch.zeros(3, 8)
    steps = list(
        euler_steps(velocities, noise, steps=4, rescale_t=3.0, guidance=Guidance(5.0, (0.75, 0.95)))
    )
    assert [negative for _, negative in asked] == [False, True, True, False]
    # guided velocity: 6 * 2 - 5 * 1 = 7, over 0.9 -> 0.75 -> 0.5; elsewhere 2
    expected = -(0.1 * 2 + 0.15 * 7 + 0.25 * 7 + 0.5 * 2)
    torch.testing.assert_close(steps[-1].latent, torch.full((3, 8), expected))
    assert [step.index for step in steps] == [0, 1, 2, 3]
    assert torch.equal(noise, torch.zeros(3, 8))


def test_values_that_are_not_finite_end_the_run_with_the_step() -> None:
    def velocities(latent: Tensor, time: float, negative: bool) -> tuple[Tensor, None]:
        return latent / (0.0 if time < 0.8 else 1.0), None

    run = euler_steps(
        velocities, torch.ones(2, 8), steps=4, rescale_t=3.0, guidance=Guidance(strength=0.0)
    )
    with pytest.raises(GenerationError, match="after step 3 of 4") as caught:
        list(run)
    assert caught.value.code == "latent_not_finite"


@pytest.fixture(scope="module")
def flow() -> LatentFlow:
    config = LatentFlowConfig(
        model_channels=32, cond_channels=12, num_blocks=2, num_heads=2, io_block_channels=(16,)
    )
    network = LatentFlow(config).requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def body(count: int = 60) -> Sites:
    cells = torch.randperm(512, generator=torch.Generator().manual_seed(1))[:count].sort().values
    coords = torch.stack([0 * cells, cells // 64, cells // 8 % 8, cells % 8], dim=1)
    return Sites(coords.int())


def sample(flow: LatentFlow, seed: int = 0, steps: int = 4, guidance: Guidance = Guidance()):  # type: ignore[no-untyped-def]  # noqa: B008
    sites = body()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(sites), 8, generator=generator)
    condition = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(2))
    velocities = flow_velocities(flow, sites, condition)
    *_, last = euler_steps(velocities, noise, steps=steps, rescale_t=3.0, guidance=guidance)
    return last.latent


def test_seed_steps_guidance_and_interval_have_an_effect_and_repeat(flow: LatentFlow) -> None:
    first = sample(flow)
    assert torch.equal(first, sample(flow))
    for other in (
        sample(flow, seed=1),
        sample(flow, steps=5),
        sample(flow, guidance=Guidance(2.0)),
        sample(flow, guidance=Guidance(5.0, (0.8, 1.0))),
    ):
        assert (other - first).abs().max() > 1e-4


def test_both_branches_in_one_batch_equal_two_runs(flow: LatentFlow) -> None:
    sites = body()
    latent = torch.randn(len(sites), 8, generator=torch.Generator().manual_seed(3))
    condition = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(4))
    positive, negative = flow_velocities(flow, sites, condition)(latent, 0.7, True)
    time = torch.tensor([700.0])
    for found, context in ((positive, condition), (negative, torch.zeros_like(condition))):
        alone = flow(SparseTensor(sites, latent), time, flow.context_keys(context))
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
