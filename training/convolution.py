"""Sparse layers of the deployment with gradients that are worth their time on a GPU.

The deployment's own classes run forwards only: through their plain form a gradient costs 27 sorted
scatters a layer, and a group norm one chain of kernels a subject. ``make_trainable`` swaps in
subclasses with the same parameters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deployments.layers.sparse.convolution import SubmanifoldConv3d, convolve
from deployments.layers.sparse.normalization import SparseGroupNorm
from deployments.layers.sparse.sites import Sites
from training.convolution_gradient import weight_gradient

CHILDREN = 8


def make_trainable(module: nn.Module) -> None:
    """Swap the sparse layers inside ``module`` in place."""
    for part in module.modules():
        if type(part) is SubmanifoldConv3d:
            part.__class__ = TrainedConv3d
        elif type(part) is SparseGroupNorm:
            part.__class__ = TrainedGroupNorm


class TrainedConv3d(SubmanifoldConv3d):
    """The same sum; its gradients are two more of its kind."""

    def forward(self, feats: Tensor, sites: Sites) -> Tensor:
        return self._convolved(feats, sites.neighbours, of_children=False)

    def on_children(self, feats: Tensor, sites: Sites) -> Tensor:
        return self._convolved(feats, sites.subdivided.neighbours, of_children=True)

    def _convolved(self, feats: Tensor, table: Tensor, *, of_children: bool) -> Tensor:
        weight, bias = self.conv["weight"], self.conv["bias"]
        result: Tensor = _Convolution.apply(feats, weight, bias, table, of_children)  # type: ignore[no-untyped-call]
        return result


class _Convolution(torch.autograd.Function):
    """``convolve``, or with ``of_children`` the one after a subdivision; on CUDA in bfloat16."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, feats: Tensor, weight: Tensor, bias: Tensor, table: Tensor, of_children: bool
    ) -> Tensor:
        dtype = torch.bfloat16 if feats.is_cuda else feats.dtype
        ctx.dtype, ctx.of_children = feats.dtype, of_children
        feats, weight = feats.to(dtype), weight.to(dtype)
        ctx.save_for_backward(feats, weight, table)
        return convolve(feats, weight, bias.to(dtype), _sources(table, of_children))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        feats, weight, table = ctx.saved_tensors
        gradient = gradient.to(feats.dtype).contiguous()
        of_weight = weight_gradient(gradient, feats, _sources(table, ctx.of_children))
        # Who reads row j at offset k is its neighbour at -k: the kernel is mirrored and transposed.
        mirrored = weight.flip(1, 2, 3).transpose(0, 4).contiguous()
        of_feats = convolve(gradient, mirrored, gradient.new_zeros(mirrored.shape[0]), table)
        if ctx.of_children:
            of_feats = of_feats.view(-1, CHILDREN, of_feats.shape[-1]).float().sum(1)
        of_bias = gradient.float().sum(0)
        return of_feats.to(ctx.dtype), of_weight.view(weight.shape), of_bias, None, None


def _sources(table: Tensor, of_children: bool) -> Tensor:
    """A child's row is its parent's: 8 parent + child -> parent; -1 stays -1."""
    return table >> 3 if of_children else table


class TrainedGroupNorm(SparseGroupNorm):
    """All batch items at once: sums over an item are scattered additions."""

    def forward(self, feats: Tensor, sites: Sites) -> Tensor:
        items = len(sites.lengths)
        if items == 1:
            return super().forward(feats, sites)
        item = sites.coords[:, 0].long()
        values = feats.float()
        grouped = values.view(len(values), self.groups, -1)
        moments = torch.cat([grouped.sum(-1), grouped.square().sum(-1)], 1)  # (N, 2 G)
        sums = moments.new_zeros(items, moments.shape[1]).index_add(0, item, moments)
        ones = moments.new_ones(len(item))
        count = moments.new_zeros(items).index_add(0, item, ones).clamp(min=1) * grouped.shape[-1]
        mean, square = (sums / count[:, None]).chunk(2, dim=1)  # (B, G)
        deviation = (square - mean.square() + self.eps).rsqrt()
        each = grouped.shape[-1]
        scale = self.weight * deviation.repeat_interleave(each, 1)
        shift = self.bias - mean.repeat_interleave(each, 1) * scale
        # index_select, since its gradient adds; that of plain indexing sorts first.
        picked = scale.index_select(0, item), shift.index_select(0, item)
        return torch.addcmul(picked[1], values, picked[0]).to(feats.dtype)
