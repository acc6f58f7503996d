"""Attention layers of the joint model with gradients that are right and worth their time on a GPU.

The sync blocks of the deployment gather the few keys that each query picks. Trained so, every query
is a sequence of its own (32 768 of them in a step), and the gradient of a gathered key is a
scattered sum. Here the same sum runs over all keys, of which there are a few hundred: the products
cost next to nothing. ``make_attention_trainable`` swaps in subclasses with the same parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deployments.stage1.models.attention import CrossAttention
from deployments.stage1.models.multiview_block import JointDomainAttention


class TrainedCrossAttention(CrossAttention):
    """The deployed attention; ``read`` weighs all places instead of picking some."""

    def read(self, x: Tensor, context: Tensor, picks: Tensor) -> Tensor:
        keys, values = self.context_keys(context)
        mixed = masked_attention(self.split(self.to_q(x)), keys, values, picks)
        return self.project(mixed.flatten(-2))


class TrainedJointDomainAttention(JointDomainAttention):
    """The deployed attention; the face blends into a copy."""

    def blend_face(self, out: Tensor) -> Tensor:
        # Attention's backward pass reads its output: that must stay as it was then.
        return super().blend_face(out.clone())


def make_attention_trainable(module: nn.Module) -> None:
    """Swap the attention layers inside ``module`` in place; the state dict stays as it was."""
    for part in module.modules():
        if type(part) is CrossAttention:
            part.__class__ = TrainedCrossAttention
        elif type(part) is JointDomainAttention:
            part.__class__ = TrainedJointDomainAttention


def masked_attention(q: Tensor, k: Tensor, v: Tensor, picks: Tensor) -> Tensor:
    """``gathered_attention`` over all keys, the logarithm of how often each is picked as a bias.

    ``q`` is (B, T, H, D), ``k`` and ``v`` (B, P, H, D), ``picks`` (T, K) int32 with values below P.
    Returns (B, T, H, D). The scores (B, H, T, P) are held, so P must be small.
    """
    counts = torch.zeros(len(picks), k.shape[1], dtype=torch.float32, device=q.device)
    ones = torch.ones_like(picks, dtype=torch.float32)
    bias = counts.scatter_add(1, picks.long(), ones).log().to(q.dtype)  # (T, P), -inf: not picked
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, D)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias  # (B, H, T, P)
    return (scores.softmax(-1) @ v).transpose(1, 2)
