"""Times, targets and conditioning dropout of the flows."""

from __future__ import annotations

import torch

from training.flow_matching import draw_times, drop, noisy


def test_times_lie_between_data_and_noise_and_lean_to_noise() -> None:
    torch.manual_seed(0)
    times = draw_times(4000, torch.device("cpu"))
    assert times.min() > 0
    assert times.max() < 1
    assert 0.6 < times.median() < 0.8


def test_following_the_velocity_leads_from_noise_to_data() -> None:
    data, noise = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    times = torch.tensor([0.0, 0.4, 1.0])
    x, velocity = noisy(data, noise, times)
    torch.testing.assert_close(x[0], data[0])
    torch.testing.assert_close(x[2], noise[2])
    torch.testing.assert_close(x - times.view(3, 1, 1) * velocity, data)


def test_dropped_subjects_get_zeros_and_others_keep_their_values() -> None:
    values = torch.randn(3, 2, 5)
    dropped = torch.tensor([False, True, False])
    result = drop(values, dropped)
    assert (result[1] == 0).all()
    assert torch.equal(result[[0, 2]], values[[0, 2]])
