"""A network run in half precision while its parameters stay float32.

Autocast casts weights one by one and lets float32 biases turn every sum into float32: twice the
bytes in each pass. Here all parameters are cast at once, a step's activations are half throughout,
as they are when the network serves, and norms keep their float32 statistics inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def in_half(module: nn.Module, dtype: torch.dtype, *inputs: Any) -> Any:
    """``module(*inputs)`` with every floating parameter and buffer of it in ``dtype``.

    Gradients reach the parameters in their own dtype. Inputs are the caller's to cast.
    """
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    named = {k: v for k, v in named.items() if v.is_floating_point() and v.dtype != dtype}
    cast = dict(zip(named, _Cast.apply(dtype, *named.values()), strict=True)) if named else {}
    with torch.autocast(next(module.parameters()).device.type, enabled=False):
        return torch.func.functional_call(module, cast, inputs)


class _Cast(torch.autograd.Function):
    """Many tensors in another dtype, in a handful of kernels; gradients go back the same way."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtypes = [value.dtype for value in values]
        return _cast(values, [dtype] * len(values))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        there = [gradient for gradient in gradients if gradient is not None]
        dtypes = [d for d, g in zip(ctx.dtypes, gradients, strict=True) if g is not None]
        cast = iter(_cast(there, dtypes))
        return None, *(None if gradient is None else next(cast) for gradient in gradients)


def _cast(values: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> tuple[Tensor, ...]:
    made = [torch.empty_like(v, dtype=d) for v, d in zip(values, dtypes, strict=True)]
    if made:
        torch._foreach_copy_(made, list(values))
    return tuple(made)
