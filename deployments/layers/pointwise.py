"""Norms and elementwise work between the large products, each as one named step.

The bodies here are plain torch and define what a step computes. On a GPU each is several passes
over memory; there, and where no gradient is wanted, deployments/layers/pointwise_triton.py does the
step in one. Row-wise means the token order of the row-wise attention: (G, V, 2, S, S) -> (G, 2, S,
4, S), where the fifth view, the face, has no place.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.layers import hopper_trial

_BODY_VIEWS = 4
_DOMAINS = 2
_TRITON_IS_HERE = find_spec("triton") is not None
_kernels_wanted = True
_FEWEST_GATED_ROWS = 8192  # below, the library divides a product better (H200)


def use_kernels(wanted: bool) -> None:
    """Choose for the process whether fused kernels take over on a GPU (benchmarks compare)."""
    global _kernels_wanted
    _kernels_wanted = wanted


def takes_kernels(x: Tensor) -> bool:
    """Whether work on ``x`` goes to a fused kernel."""
    return _kernels_wanted and x.is_cuda and _TRITON_IS_HERE and not torch.is_grad_enabled()


def _fused(x: Tensor, *vectors: Tensor | None) -> bool:
    """Whether a kernel takes the step; ``vectors`` must be the same for all tokens then."""
    return takes_kernels(x) and all(vector is None or vector.ndim == 1 for vector in vectors)


def convolve(layer: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """The convolution with its bias: pictures or volumes (N, C, ...)."""
    if not _fused(x) or layer.bias is None:
        y: Tensor = layer(x)
        return y
    # cuDNN gives no bias: torch adds it in a pass of its own that is far from the memory's speed.
    run = F.conv2d if isinstance(layer, nn.Conv2d) else F.conv3d
    return bias_in_place(run(x, layer.weight, None, layer.stride, layer.padding), layer.bias)


def bias_in_place(x: Tensor, bias: Tensor) -> Tensor:
    """x + bias: pictures or volumes (N, C, ...), bias (C,). May return ``x`` itself, changed."""
    channels_last = x.movedim(1, -1)
    if _fused(x) and channels_last.is_contiguous():
        from deployments.layers import pointwise_triton as kernels

        kernels.bias_in_place(channels_last, bias)
        return x
    return x + bias.view(-1, *[1] * (x.ndim - 2))


def mean_into(x: Tensor, y: Tensor) -> None:
    """x becomes (x + y) / 2: (A, B, H, W, C) with any strides, channels side by side."""
    if _fused(x):
        from deployments.layers import mean_triton

        mean_triton.mean_into(x, y)
    else:
        x.copy_(torch.lerp(x, y, 0.5))


def add_gated(x: Tensor, h: Tensor, gate: Tensor) -> Tensor:
    """x + gate h: tokens (..., C), gate broadcasts against them."""
    if _fused(x, gate):
        from deployments.layers import pointwise_triton as kernels

        return kernels.add_gated(x, h, gate)
    return torch.addcmul(x, gate, h)


def add_product(x: Tensor, h: Tensor, weight: Tensor) -> Tensor:
    """x + h W^T: tokens (..., C) and (..., D), weight (C, D).

    On a GPU the product is added to ``x`` in its own memory, in the pass that stores it; whoever
    calls this does not need ``x`` afterwards.
    """
    if _fused(x) and x.is_contiguous():
        x.view(-1, x.shape[-1]).addmm_(h.reshape(-1, h.shape[-1]), weight.t())
        return x
    return x + F.linear(h, weight)


def linear_gelu(x: Tensor, layer: nn.Linear) -> Tensor:
    """GELU(layer(x)) in its tanh form: (..., C) -> (..., D)."""
    if _fused(x):
        rows = x.reshape(-1, x.shape[-1])
        # On CUDA this is one product whose last pass applies the tanh form; elsewhere it is exact.
        y = torch._addmm_activation(layer.bias, rows, layer.weight.t(), use_gelu=True)
        return y.view(*x.shape[:-1], -1)
    return F.gelu(layer(x), approximate="tanh")


def geglu(h: Tensor) -> Tensor:
    """(..., 2 C) = [a | g] -> a GELU(g) (..., C), GELU in its exact form."""
    if _fused(h):
        from deployments.layers import geglu_triton

        return geglu_triton.geglu(h.contiguous())
    a, g = h.chunk(2, dim=-1)
    return a * F.gelu(g)


def linear_geglu(x: Tensor, layer: nn.Linear) -> Tensor:
    """``geglu`` of layer(x): (..., C) -> (..., D), the layer has 2 D outputs.

    On Hopper a kernel of ours gates a large product while it stores it; elsewhere the product is
    the library's, and gating it is a pass of its own.
    """
    half = x.dtype in (torch.float16, torch.bfloat16)
    large = half and x.numel() // x.shape[-1] >= _FEWEST_GATED_ROWS
    # The kernel's descriptors want rows of whole 16 bytes.
    whole = layer.in_features % 8 == 0 and layer.out_features % 16 == 0
    fused = large and whole and layer.bias is not None and _fused(x)
    if fused and hopper_trial.takes(x, "gated product", _gated_product_trial):
        from deployments.layers import geglu_triton

        return geglu_triton.linear_geglu(x, layer.weight, layer.bias)
    return geglu(layer(x))


def _gated_product_trial(device: torch.device, dtype: torch.dtype) -> None:
    from deployments.layers import geglu_triton

    values = hopper_trial.wave(256 * 64, device, dtype)
    x, weight, bias = values.view(256, 64)[:128], values.view(256, 64) / 8, values[:256]
    a, g = F.linear(x.float(), weight.float(), bias.float()).chunk(2, dim=-1)
    hopper_trial.expect_close(geglu_triton.linear_geglu(x, weight, bias), a * F.gelu(g))


def add_norm(
    x: Tensor, h: Tensor, norm: nn.LayerNorm, gate: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x + gate h and its layer norm: tokens (..., C), gate broadcasts against them."""
    if _fused(x, gate):
        from deployments.layers import layer_norm_triton as kernels

        return kernels.add_norm(x, h, norm.weight, norm.bias, norm.eps, gate=gate)
    x = x + h if gate is None else torch.addcmul(x, gate, h)
    return x, norm(x)


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """The norm alone, with or without gains: tokens (..., C)."""
    if _fused(x, norm.weight) and norm.weight is not None:
        from deployments.layers import layer_norm_triton as kernels

        return kernels.add_norm(x, None, norm.weight, norm.bias, norm.eps)[1]
    y: Tensor = norm(x)
    return y


def norm_modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LN(x) (1 + scale) + shift, LN without weights; shift and scale broadcast against x."""
    if _fused(x, shift):
        from deployments.layers import layer_norm_triton as kernels

        return kernels.add_norm(x, None, scale, shift, eps, modulated=True)[1]
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift


def add_norm_modulated(
    x: Tensor,
    h: Tensor,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    *,
    gate: Tensor | None = None,
    blank: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x + gate h and ``norm_modulated`` of it; gate, shift and scale broadcast against x.

    Where ``h`` has fewer items than ``x`` (B, T, C), it belongs to the last ones, and every token
    of the first ones gets ``blank`` (C,) instead.
    """
    if _fused(x, gate, shift):
        from deployments.layers import layer_norm_triton as kernels

        return kernels.add_norm(x, h, scale, shift, eps, gate=gate, modulated=True, blank=blank)
    if blank is not None:
        first = blank.expand(x.shape[0] - h.shape[0], *x.shape[1:])
        h = torch.cat([first, h])
    x = x + h if gate is None else torch.addcmul(x, gate, h)
    return x, norm_modulated(x, shift, scale, eps)


def norm_shifted(x: Tensor, norm: nn.LayerNorm, shift: Tensor) -> Tensor:
    """LN(x + shift): tokens (..., C), shift (C,)."""
    if _fused(x):
        from deployments.layers import layer_norm_triton as kernels

        return kernels.add_norm(x, None, norm.weight, norm.bias, norm.eps, shift=shift)[1]
    y: Tensor = norm(x + shift)
    return y


def norm_to_rowwise(x: Tensor, norm: nn.LayerNorm, shift: Tensor, views: int) -> Tensor:
    """LN(x + shift), x (G V 2, S^2, C), in row-wise order (G, 2, S, 4, S, C)."""
    if _fused(x):
        from deployments.layers import layer_norm_triton as kernels

        return kernels.add_norm(
            x, None, norm.weight, norm.bias, norm.eps, shift=shift, views=views, out_rowwise=True
        )[1]
    y: Tensor = norm(to_rowwise(x + shift, views))
    return y


def add_rowwise_norm(
    x: Tensor, grouped: Tensor, norm: nn.LayerNorm, shift: Tensor, views: int
) -> tuple[Tensor, Tensor]:
    """x (G V 2, S^2, C) plus shift and tokens in row-wise order, and the norm of the sum."""
    if _fused(x):
        from deployments.layers import layer_norm_triton as kernels

        return kernels.add_norm(
            x,
            grouped,
            norm.weight,
            norm.bias,
            norm.eps,
            shift=shift,
            views=views,
            add_rowwise=True,
        )
    pictures = _pictures(x + shift, views)
    body = pictures[:, :_BODY_VIEWS] + grouped.permute(0, 3, 1, 2, 4, 5)
    x = torch.cat([body, pictures[:, _BODY_VIEWS:]], dim=1).view(x.shape)
    return x, norm(x)


def to_rowwise(x: Tensor, views: int) -> Tensor:
    """(G V 2, S^2, C) -> (G, 2, S, 4, S, C), a strided view."""
    return _pictures(x, views)[:, :_BODY_VIEWS].permute(0, 2, 3, 1, 4, 5)


def head_rms_norm(x: Tensor, gamma: Tensor) -> Tensor:
    """x / |x| gamma sqrt(D) for every head: (..., H, D), gamma (H, D)."""
    if _fused(x):
        from deployments.layers import pointwise_triton as kernels

        return kernels.head_rms_norm(x, gamma)
    unit = F.normalize(x.float(), dim=-1, eps=1e-12)
    return (unit * gamma.float() * x.shape[-1] ** 0.5).to(x.dtype)


def _pictures(x: Tensor, views: int) -> Tensor:
    size = int(x.shape[1] ** 0.5)
    return x.view(-1, views, _DOMAINS, size, size, x.shape[-1])
