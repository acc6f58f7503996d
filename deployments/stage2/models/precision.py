"""Mixed precision as the official checkpoints have it (model.md 17)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from deployments.layers.sparse.convolution import PointwiseConv3d, SubmanifoldConv3d

_MATRICES = (nn.Linear, PointwiseConv3d, SubmanifoldConv3d)


def matrix_dtype(part: nn.Module) -> torch.dtype:
    """The type of the matrices in ``part``, which activations travel in."""
    return next(m.weight.dtype for m in part.modules() if isinstance(m, nn.Linear))


def cast_matrices(parts: Iterable[nn.Module], dtype: torch.dtype) -> None:
    """Cast linear layers and convolutions of ``parts``; norms, gains and everything else stay.

    Activations between them then travel in ``dtype``; norms and sums are taken in float32.
    """
    for part in parts:
        for module in part.modules():
            if isinstance(module, _MATRICES):
                module.to(dtype)
