"""Make sure that the attention kernels of this machine can be trained through.

The deployment only runs them forwards. A kernel that raises in the backward pass, or whose
gradients are off, is replaced by the plain one before hours are spent on it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deployments.layers.attention import dense, varlen

TOLERANCE = 0.05  # of the largest gradient, in bfloat16
LENGTHS = (5, 130, 64, 1, 300)
NEVER = 1 << 40


def check_attention(device: torch.device) -> None:
    """Compare gradients with plain attention on a CUDA device; fall back where they differ."""
    if device.type != "cuda":
        return
    if not _agrees(_dense_gradient, device):
        print("cuDNN attention can not be trained through here: not used", flush=True)
        dense._CUDNN_WORTH_IT = NEVER
    if not _agrees(_packed_gradient, device):
        print("packed attention can not be trained through here: padded instead", flush=True)
        varlen._torch_has_varlen = lambda: False


def _agrees(gradient: Callable[[Tensor], tuple[Tensor, Tensor]], device: torch.device) -> bool:
    generator = torch.Generator(device).manual_seed(0)
    tokens = sum(LENGTHS)
    values = torch.randn(3, 1200, 2, 32, generator=generator, device=device)[:, : max(tokens, 1200)]
    try:
        found, expected = gradient(values)
    except RuntimeError as error:
        print(f"attention check: {str(error).splitlines()[0]}", flush=True)
        return False
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())


def _dense_gradient(values: Tensor) -> tuple[Tensor, Tensor]:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return dense.attention(q[None], k[None], v[None])[0]

    return _gradient(values, attend), _gradient(values.float(), _plain, half=False)


def _packed_gradient(values: Tensor) -> tuple[Tensor, Tensor]:
    values = values[:, : sum(LENGTHS)]

    def packed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return varlen.attention_varlen(q, k, v, LENGTHS, LENGTHS)

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = zip(*(x.split(LENGTHS) for x in (q, k, v)), strict=True)
        return torch.cat([_plain(*part) for part in parts])

    return _gradient(values, packed), _gradient(values, plain, half=False)


def _plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("thd,shd->hts", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("hts,shd->thd", scores.softmax(-1), v)


def _gradient(
    values: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Tensor], *, half: bool = True
) -> Tensor:
    leaf = values.to(torch.bfloat16 if half else torch.float32).requires_grad_()
    out = attend(*leaf.unbind(0))
    weight = torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out)
    (gradient,) = torch.autograd.grad((out.float() * weight).sum(), leaf)
    return gradient.float()
