"""Linear layers whose product runs in FP8 (e4m3, Micikevicius et al. 2022, "FP8 formats").

Weights are quantised once with one scale an output channel, activations on the fly with one scale
a token; the product accumulates in float32. Elsewhere than on CUDA the same numbers are computed
from the quantised values in float32.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.errors import BackendError
from deployments.layers.pointwise import takes_kernels

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max
LEAST = 1e-12  # magnitude that stands in for that of a row of zeros


def require_float8(device: torch.device | str) -> None:
    """Raise ``BackendError`` unless the device multiplies FP8 matrices."""
    device = torch.device(device)
    found = f"this is {device}"
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 9):
            return
        found = f"{torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}"
    raise BackendError(
        f"fp8 needs a CUDA card of compute capability 8.9 or later, {found}: set fp8 to false",
        code="fp8_unavailable",
    )


def quantise_rows(x: Tensor, *, gelu: bool = False) -> tuple[Tensor, Tensor]:
    """Rows (M, K) -> e4m3 (M, K) and scales (M, 1) float32, whose product is ``x``.

    With ``gelu`` it is GELU(x) in its tanh form instead.
    """
    if takes_kernels(x):
        from deployments.layers import float8_triton

        return float8_triton.quantise_rows(x, gelu=gelu)
    y = x.float()
    if gelu:
        y = F.gelu(y, approximate="tanh")
    scale = y.abs().amax(-1, keepdim=True).clamp(min=LEAST) / LARGEST
    return (y / scale).to(FLOAT8), scale


class Float8Linear(nn.Module):
    """A linear layer with its weight in FP8; its activations stay in the dtype that they have."""

    weight: Tensor  # (D, C) e4m3
    scale: Tensor  # (1, D)

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        quantised, scale = quantise_rows(weight.detach())
        self.register_buffer("weight", quantised)
        self.register_buffer("scale", scale.view(1, -1))
        self.bias = bias

    @classmethod
    def of(cls, layer: nn.Linear) -> Float8Linear:
        """The layer, quantised."""
        return cls(layer.weight, layer.bias)

    def forward(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        """(..., C) -> (..., D), of GELU(x) with ``gelu``."""
        rows, scale = quantise_rows(x.reshape(-1, x.shape[-1]), gelu=gelu)
        if x.is_cuda:
            y = self._product(rows, scale, _output_dtype(x.device, x.dtype))
        else:
            y = F.linear(rows.float() * scale, self.weight.float() * self.scale.t())
            y = y if self.bias is None else y + self.bias.float()
        return y.to(x.dtype).view(*x.shape[:-1], -1)

    def _product(self, rows: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        bias = None if self.bias is None else self.bias.to(dtype)
        return torch._scaled_mm(
            rows,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale,
            bias=bias,
            out_dtype=dtype,
            use_fast_accum=True,
        )


@lru_cache(maxsize=8)
def _output_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """``dtype`` where the library stores it behind scales by row; some only store bfloat16."""
    rows = torch.zeros(128, 128, device=device, dtype=FLOAT8)
    scales = torch.ones(128, 1, device=device)
    bias = torch.zeros(128, device=device, dtype=dtype)
    try:
        torch._scaled_mm(
            rows, rows.t(), scale_a=scales, scale_b=scales.t(), bias=bias, out_dtype=dtype
        )
    except (RuntimeError, ValueError):
        return torch.bfloat16
    return dtype
