from __future__ import annotations

import math

import torch

from deployments.layers.embeddings import grid_position_table, position_embedding, sinusoid


def test_sinusoid_is_cosines_then_sines_of_falling_frequencies() -> None:
    values = torch.tensor([0.0, 1.0, 750.25])
    frequencies = [math.exp(-math.log(10_000) * i / 160) for i in range(160)]
    expected = torch.tensor(
        [
            [math.cos(t * f) for f in frequencies] + [math.sin(t * f) for f in frequencies]
            for t in values.tolist()
        ]
    )
    # One unit in the last place of a frequency is 6e-8, times 750.
    torch.testing.assert_close(sinusoid(values, 320), expected, atol=6e-5, rtol=0)


def test_positions_fill_up_with_zeros_what_three_axes_leave_over() -> None:
    table = position_embedding(torch.tensor([[1, 2, 3]]), 1024)
    assert table.shape == (1, 1024)
    assert (table[:, 1020:] == 0).all()
    torch.testing.assert_close(table[0, 340], torch.tensor(math.sin(2.0)))


def test_grid_table_runs_along_z_first() -> None:
    table = grid_position_table(4, 24)
    cell = position_embedding(torch.tensor([[1, 2, 3]]), 24)
    torch.testing.assert_close(table[1 * 16 + 2 * 4 + 3], cell[0])
