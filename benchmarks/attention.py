"""Our attention kernel for Hopper against SDPA's choice, at the official sizes of Stage 1.

    python -m benchmarks.attention

Prints milliseconds, TFLOP/s and the error against float64 (norm of the difference over that of the
result, over the first queries of every item), and whether the kernel takes that size by default
(deployments/layers/attention/hopper.py); needs a CUDA device.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.pointwise import milliseconds
from deployments.layers.attention import hopper
from deployments.layers.attention.dense import sdpa

# Items, tokens, heads: joint-domain attention of three levels, the flow's self-attention.
SHAPES = ((10, 18432, 5), (10, 4608, 10), (10, 1152, 20), (2, 4096, 16))
DIM = 64
CHECKED = 192  # queries of an item
KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sdpa": sdpa,
    "ours": hopper.attention,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    with torch.inference_mode():
        for shape in SHAPES:
            compare(shape, arguments.runs)


def compare(shape: tuple[int, int, int], runs: int) -> None:
    """A line for either kernel."""
    torch.manual_seed(0)
    items, tokens, heads = shape
    qkv = torch.randn(items, tokens, 3, heads, DIM, device="cuda", dtype=torch.float16)
    q, k, v = (1.5 * qkv).unbind(2)
    taken = "ours" if hopper.takes(q, k, v) else "sdpa"
    wanted = _reference(q, k, v)
    flop = 4 * items * heads * tokens**2 * DIM
    for name, work in KERNELS.items():
        label = f"{shape!s:18s} {name}{' (default)' if name == taken else '':10s}"
        try:
            found = work(q, k, v)[:, :CHECKED].float()
            error = float((found - wanted).norm() / wanted.norm())
            ms = milliseconds(partial(work, q, k, v), runs)
            print(f"{label} {ms:8.3f} ms {flop / ms / 1e9:6.0f} TFLOP/s, error {error:.1e}")
        except Exception as failed:  # the next one is to run whatever failed here
            print(f"{label} FAILED {str(failed)[:300]}", flush=True)


def _reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Float64 result of the first queries, one item at a time."""
    rows = []
    for i in range(len(q)):
        a, b, c = (x[i].transpose(0, 1).double() for x in (q[:, :CHECKED], k, v))  # (H, T, D)
        scores = a @ b.transpose(1, 2) / DIM**0.5
        rows.append((scores.softmax(-1) @ c).transpose(0, 1).float())
    return torch.stack(rows)


if __name__ == "__main__":
    main()
