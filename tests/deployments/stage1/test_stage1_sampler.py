from __future__ import annotations

import pytest
import torch

from deployments.contracts import Progress, ignore_progress, never_cancelled
from deployments.errors import Cancelled, GenerationError
from deployments.layers.flow_schedule import flow_schedule
from deployments.stage1.sampler import Latents, flow_times, guide, initial_noise, sample, scaled

SHAPES = ((2, 1, 3, 3), (1, 2, 2, 2, 2))


def noise(seed: int = 0) -> Latents:
    return initial_noise(seed, *SHAPES, device="cpu", dtype=torch.float32)


def towards_zero(latents: Latents, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The flow whose data is zero: v = x / t, so that every step keeps x / t."""
    t = flow_schedule(4, 3.0)[index]
    return latents.pictures[None] / t, latents.structure / t


def run(**changes: object) -> Latents:
    arguments = {
        "velocities": towards_zero,
        "noise": noise(),
        "schedule": flow_schedule(4, 3.0),
        "guidance": 3.0,
        "seed": 7,
        "progress": ignore_progress,
        "cancelled": never_cancelled,
    }
    return sample(**{**arguments, **changes})  # type: ignore[arg-type]


def test_a_straight_flow_arrives() -> None:
    latents = run()
    assert latents.pictures.abs().max() < 1e-6
    assert latents.structure.abs().max() < 1e-6


def test_progress_is_told_after_every_step() -> None:
    told: list[Progress] = []
    run(progress=told.append)
    assert [(p.stage, p.step, p.steps) for p in told] == [("stage1", n, 4) for n in (1, 2, 3, 4)]


def test_a_cancelled_run_stops_before_the_next_step() -> None:
    told: list[Progress] = []
    with pytest.raises(Cancelled):
        run(progress=told.append, cancelled=lambda: len(told) == 2)
    assert len(told) == 2


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_latent_that_is_not_finite_names_seed_and_step(broken: float) -> None:
    def velocities(latents: Latents, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        v, h = towards_zero(latents, index)
        return (v, h * broken) if index == 1 else (v, h)

    with pytest.raises(GenerationError, match="after step 2 of 4 with seed 7") as error:
        run(velocities=velocities)
    assert error.value.detail == {"seed": 7, "step": 2}


def test_guidance_moves_beyond_the_condition() -> None:
    branches = torch.tensor([[1.0], [2.0]])
    assert guide(branches, 3.0).tolist() == [4.0]
    assert guide(branches[1:], 1.0).tolist() == guide(branches, 1.0).tolist() == [2.0]


def test_noise_follows_the_seed_and_the_two_latents_differ() -> None:
    assert torch.equal(noise(1).pictures, noise(1).pictures)
    assert not torch.equal(noise(1).pictures, noise(2).pictures)
    first = min(noise(1).pictures.numel(), noise(1).structure.numel())
    shared = noise(1).pictures.flatten()[:first] == noise(1).structure.flatten()[:first]
    assert not shared.any()


def test_structure_noise_is_the_first_draw_of_the_seed() -> None:
    expected = torch.randn(SHAPES[1], generator=torch.Generator().manual_seed(5))
    assert torch.equal(noise(5).structure, expected)


def test_flow_times_are_rounded_in_half_precision_only() -> None:
    schedule = flow_schedule(50, 3.0)
    assert flow_times(schedule, torch.float16)[1] == 993.0
    assert flow_times(schedule, torch.float32)[1] == pytest.approx(993.2432432)


def test_each_kind_of_noise_has_its_scale() -> None:
    plain = noise()
    quiet = scaled(plain, (0.5, 0.25, 0.0))
    assert torch.equal(quiet.pictures, plain.pictures * torch.tensor([0.5, 0.25]).view(2, 1, 1, 1))
    assert not quiet.structure.any()
    for same, before in zip(scaled(plain, (1.0, 1.0, 1.0)), plain, strict=True):
        assert torch.equal(same, before)
