"""Try the kernels of this machine before minutes are spent on them.

The deployment runs attention only forwards: a kernel that raises in the backward pass, or whose
gradients are off, is replaced by the plain one. The z-buffer kernel must draw what its twin draws,
the sparse kernels must have the gradients of theirs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deployments.layers.attention import dense, varlen
from deployments.layers.pointwise import use_kernels
from deployments.layers.sparse.backend import choose_sparse_backend
from deployments.layers.sparse.sites import Sites
from training.convolution import TrainedConv3d
from training.people import rasterize

TOLERANCE = 0.05  # of the largest gradient, in bfloat16
LENGTHS = (5, 130, 64, 1, 300)


def check_kernels(device: torch.device) -> None:
    """Compare with plain torch on a CUDA device; fall back where they differ."""
    if device.type != "cuda":
        return
    use_kernels(False)  # they are for inference in half precision
    choose_sparse_backend("auto", device)
    if not _sparse_gradients_agree(device):
        print("the sparse kernels do not work here: plain torch instead", flush=True)
        choose_sparse_backend("torch", device)
    if not _rasterizer_agrees(device):
        print("the z-buffer kernel does not work here: plain torch instead", flush=True)
        rasterize.triton = None
    if not _agrees(_dense_gradient, device):
        print("cuDNN attention can not be trained through here: not used", flush=True)
        dense.prefer_cudnn(False)
    if not _agrees(_packed_gradient, device):
        print("packed attention can not be trained through here: padded instead", flush=True)
        varlen._torch_has_varlen = lambda: False


def _rasterizer_agrees(device: torch.device) -> bool:
    generator = torch.Generator(device).manual_seed(0)
    points = torch.rand(2, 3000, 3, generator=generator, device=device) * 64
    faces = torch.arange(3000, device=device).view(-1, 3)
    corners = points[:, faces]
    points = (corners[:, :, :1] + (corners - corners[:, :, :1]) * 0.2).flatten(1, 2)
    points[..., 2] = points[..., 2] / 64 - 0.5
    try:
        found = rasterize.rasterize(points, faces, 64)
    except Exception as error:  # whatever a compiler may raise
        print(f"z-buffer check: {type(error).__name__}: {str(error)[:500]}", flush=True)
        return False
    expected = rasterize.rasterize(points, faces, 64, kernel=False)
    return bool((found != expected).float().mean() < 1e-3)


def _sparse_gradients_agree(device: torch.device) -> bool:
    """A convolution and the one of its children, against float32 without kernels."""
    generator = torch.Generator(device).manual_seed(0)
    coords = (torch.rand(2, 9, 9, 9, generator=generator, device=device) < 0.3).nonzero().int()
    layer = TrainedConv3d(48, 32).to(device)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    feats = torch.randn(len(coords), 48, generator=generator, device=device, requires_grad=True)
    wanted = [feats, *layer.parameters()]

    def gradients(backend: str) -> list[Tensor]:
        choose_sparse_backend(backend, device)
        sites = Sites(coords, batch=2)
        whole = layer(feats, sites).float().square().sum()
        whole = whole + layer.on_children(feats, sites).float().square().sum()
        return list(torch.autograd.grad(whole, wanted))

    try:
        found, expected = gradients("triton"), gradients("torch")
    except Exception as error:  # whatever a compiler may raise
        print(f"sparse check: {type(error).__name__}: {str(error)[:500]}", flush=True)
        return False
    choose_sparse_backend("triton", device)
    return all(
        bool((a - b).abs().max() <= TOLERANCE * b.abs().max())
        for a, b in zip(found, expected, strict=True)
    )


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
