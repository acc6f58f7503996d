"""Group normalisation of sparse tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deployments.layers.sparse.sites import Sites


class SparseGroupNorm(nn.Module):
    """Normalise every batch item over the channels of a group and all its voxels, in float32."""

    def __init__(self, groups: int, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, feats: Tensor, sites: Sites) -> Tensor:
        """(N, C) on ``sites`` -> (N, C) in the same dtype."""
        if len(sites.lengths) == 1:
            return self._item(feats)
        return torch.cat([self._item(item) for item in torch.split(feats, list(sites.lengths))])

    def _item(self, feats: Tensor) -> Tensor:
        if feats.shape[0] == 0:
            return feats
        values = feats.float()
        variance, mean = torch.var_mean(
            values.view(values.shape[0], self.groups, -1), dim=(0, 2), correction=0
        )  # (G,)
        each = self.weight.shape[0] // self.groups
        scale = self.weight.float() * (variance + self.eps).rsqrt().repeat_interleave(each)
        shift = self.bias.float() - mean.repeat_interleave(each) * scale
        return torch.addcmul(shift, values, scale).to(feats.dtype)
