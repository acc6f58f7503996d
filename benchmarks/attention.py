"""Our attention kernel for Hopper against SDPA's choice, at the official sizes of Stage 1.

    python -m benchmarks.attention --divisions 3:128:2:2:160,2:128:2:2:240

A division is GROUPS:KEYS:STAGES:POLYNOMIALS:REGISTERS (hopper_gluon.Division). Prints
milliseconds, TFLOP/s and the error against float32 (norm of the difference over that of the
result, over the first queries of every item); needs a CUDA device.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.pointwise import milliseconds
from deployments.layers.attention import dense
from deployments.layers.attention.hopper import use_hopper_kernel

# Items, tokens, heads: joint-domain attention of three levels, the flow's self-attention.
SHAPES = ((10, 18432, 5), (10, 4608, 10), (10, 1152, 20), (2, 4096, 16))
DIM = 64
CHECKED = 192  # queries of an item
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--divisions", default="3:128:2:2:160")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    use_hopper_kernel(False)
    candidates: dict[str, Attention] = {"sdpa": dense.attention}
    for text in arguments.divisions.split(","):
        candidates[text] = _ours(text)
    with torch.inference_mode():
        for shape in SHAPES:
            compare(shape, candidates, arguments.runs)


def compare(shape: tuple[int, int, int], candidates: dict[str, Attention], runs: int) -> None:
    """A line for every candidate."""
    torch.manual_seed(0)
    items, tokens, heads = shape
    qkv = torch.randn(items, tokens, 3, heads, DIM, device="cuda", dtype=torch.float16)
    q, k, v = (1.5 * qkv).unbind(2)
    wanted = _reference(q, k, v)
    flop = 4 * items * heads * tokens**2 * DIM
    for name, work in candidates.items():
        label = f"{shape!s:18s} {name:20s}"
        try:
            found = work(q, k, v)[:, :CHECKED].float()
            error = float((found - wanted).norm() / wanted.norm())
            ms = milliseconds(partial(work, q, k, v), runs)
            print(f"{label} {ms:8.3f} ms {flop / ms / 1e9:6.0f} TFLOP/s, error {error:.1e}")
        except Exception as failed:  # the next one is to run whatever failed here
            print(f"{label} FAILED {str(failed)[:300]}", flush=True)


def _ours(text: str) -> Attention:
    from deployments.layers.attention import hopper_gluon

    division = hopper_gluon.Division(*map(int, text.split(":")))
    return lambda q, k, v: hopper_gluon.attention(q, k, v, division)


def _reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Float32 result of the first queries, one item at a time."""
    rows = []
    for i in range(len(q)):
        a, b, c = (x[i].transpose(0, 1).double() for x in (q[:, :CHECKED], k, v))  # (H, T, D)
        scores = a @ b.transpose(1, 2) / DIM**0.5
        rows.append((scores.softmax(-1) @ c).transpose(0, 1).float())
    return torch.stack(rows)


if __name__ == "__main__":
    main()
