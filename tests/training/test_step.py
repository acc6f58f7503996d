"""A recorded step gives the losses and gradients of a plain one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.step import Losses, RecordedStep, Step


def make(device: str) -> tuple[nn.Linear, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    return nn.Linear(4, 3).to(device), {"x": torch.randn(5, 4, device=device)}


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)], ids=["cpu", "cuda"]
)
def test_recorded_step_equals_plain_one_for_every_batch(device: str) -> None:
    layer, rows = make(device)

    def losses(rows: dict[str, torch.Tensor]) -> Losses:
        return {"loss": layer(rows["x"]).float().square().mean()}

    parameters = list(layer.parameters())
    plain, recorded = Step(losses, parameters), RecordedStep(losses, parameters)
    for scale in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        batch = {"x": rows["x"] * scale}
        expected, norm = plain(batch)
        wanted = [p.grad.clone() for p in parameters if p.grad is not None]
        expected, norm = {"loss": expected["loss"].clone()}, norm.clone()
        found, found_norm = recorded(batch)
        torch.testing.assert_close(found["loss"], expected["loss"])
        torch.testing.assert_close(found_norm, norm)
        for parameter, gradient in zip(parameters, wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_gradients_are_clipped() -> None:
    layer, rows = make("cpu")
    step = Step(
        lambda batch: {"loss": 1000 * layer(batch["x"]).square().sum()}, list(layer.parameters())
    )
    _, norm = step(rows)
    total = torch.cat([p.grad.flatten() for p in layer.parameters() if p.grad is not None]).norm()
    assert norm > 1000
    torch.testing.assert_close(total, torch.tensor(1.0), atol=1e-4, rtol=0)
