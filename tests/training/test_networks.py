"""Networks begin with values everywhere, also where the deployment's classes are left empty."""

from __future__ import annotations

import pytest
import torch

from deployments.checkpoints.component import Component
from training.run import Run


@pytest.mark.parametrize("component", [Component.DINOV2, Component.IMAGE_ENCODER])
def test_tokens_and_positions_start_small(toy_run: Run, component: Component) -> None:
    torch.manual_seed(0)
    module = toy_run.configs.build(component, toy_run.device)
    found = [
        parameter
        for name, parameter in module.named_parameters()
        if "position" in name or name.endswith(("class_embedding", "_token", "_tokens"))
    ]
    assert len(found) == (4 if component is Component.DINOV2 else 2)
    for parameter in found:
        assert 0.01 < parameter.std() < 0.03


def test_layer_scales_start_at_the_value_of_the_configuration(toy_run: Run) -> None:
    module = toy_run.configs.build(Component.DINOV2, toy_run.device)
    scales = [p for name, p in module.named_parameters() if name.endswith("lambda1")]
    assert scales
    assert all(bool((scale == 1).all()) for scale in scales)
