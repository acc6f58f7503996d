from __future__ import annotations

import torch
from test_joint_model import CONFIG, noise

from deployments.layers.float8 import Float8Linear
from deployments.stage1.models.joint_model import Conditioning, JointModel
from deployments.stage1.models.quantised import use_float8


def test_a_quantised_model_is_close_to_the_model() -> None:
    torch.manual_seed(0)
    model = JointModel(CONFIG).eval().requires_grad_(False)
    model.prepare_for_inference()
    conditioning = Conditioning(
        prompts=torch.randn(10, 3, 8),
        pictures=torch.randn(10, 16),
        latents=torch.randn(10, 4, 12, 12),
        condition=torch.randn(1, 5, 8),
    )
    prepared = model.prepare(conditioning, [700.0], guided=True)
    expected = model.step(*noise(), prepared, 0)
    use_float8(model, fewest=(32, 32))
    kinds = {
        name.split(".")[-1] for name, m in model.named_modules() if isinstance(m, Float8Linear)
    }
    assert kinds == {"to_qkv", "to_out", "first", "second", "project_qkv", "proj", "proj_in"}
    found = model.step(*noise(), prepared, 0)
    for a, b in zip(found, expected, strict=True):
        assert 0 < (a - b).norm() / b.norm() < 0.1


def test_small_layers_stay_as_they_are() -> None:
    torch.manual_seed(0)
    model = JointModel(CONFIG).eval().requires_grad_(False).prepare_for_inference()
    use_float8(model)
    assert not any(isinstance(module, Float8Linear) for module in model.modules())
