"""Which layers of the joint model run in FP8 where that is asked for.

A product gains when its rows are read once and used for many outputs: rounding a row moves three
bytes an element, and the product has to win that back. Attention, convolutions, and products that
are added to the tokens where they lie stay in half precision.
"""

from __future__ import annotations

from torch import Tensor, nn

from deployments.layers.float8 import Float8Linear
from deployments.layers.modulated_block import FeedForward, ModulatedBlock
from deployments.stage1.models.attention import SelfAttention
from deployments.stage1.models.joint_model import JointModel
from deployments.stage1.models.multiview_block import GEGLU
from deployments.stage1.models.unet_blocks import MultiviewTransformer

_FEWEST = 640, 1024  # channels in and out of a layer that gains


def use_float8(model: JointModel, fewest: tuple[int, int] = _FEWEST) -> JointModel:
    """Quantise linear layers of a model that is prepared for inference, in place.

    ``fewest`` says from how many channels, in and out, a layer counts as large.
    """

    def gains(weight: Tensor) -> bool:
        outputs, inputs = weight.shape
        return inputs >= fewest[0] and outputs >= fewest[1]

    for module in list(model.modules()):
        if isinstance(module, ModulatedBlock):
            attention = module.self_attn
            if gains(attention.to_qkv.weight):
                attention.to_qkv = Float8Linear.of(attention.to_qkv)  # type: ignore[assignment]
            if gains(attention.to_out.weight):
                attention.to_out = Float8Linear.of(attention.to_out)  # type: ignore[assignment]
            if all(gains(module.mlp.mlp[i].weight) for i in (0, 2)):  # type: ignore[arg-type]
                module.mlp = _Float8FeedForward(module.mlp)  # type: ignore[assignment]
        elif isinstance(module, SelfAttention):
            if module.joint is not None and gains(module.joint):
                module.project_qkv = Float8Linear(module.joint, None)
        elif isinstance(module, GEGLU) and gains(module.proj.weight):
            module.proj = Float8Linear.of(module.proj)  # type: ignore[assignment]
        elif isinstance(module, MultiviewTransformer) and gains(module.proj_in.weight):
            module.proj_in = Float8Linear.of(module.proj_in)  # type: ignore[assignment]
    return model


class _Float8FeedForward(nn.Module):
    """``FeedForward`` in FP8: its GELU joins the pass that rounds what the second layer takes."""

    def __init__(self, mlp: FeedForward) -> None:
        super().__init__()
        self.first = Float8Linear.of(mlp.mlp[0])  # type: ignore[arg-type]
        self.second = Float8Linear.of(mlp.mlp[2])  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        y: Tensor = self.second(self.first(x), gelu=True)
        return y
