"""A gated feed-forward layer at the official sizes of the multi-view UNet.

    python -m benchmarks.feed_forward

Prints milliseconds of geglu(W x + b), all pictures at once: the library's product and a pass that
gates it, then our product that gates what it stores; needs a CUDA device. Stage 1 takes ours from
8192 tokens on (deployments/layers/pointwise.py).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.pointwise import LEVELS, ROWS, milliseconds
from deployments.layers.geglu_triton import geglu, linear_geglu


def main() -> None:
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    with torch.inference_mode(), torch.device("cuda"):
        for size, channels in LEVELS:
            compare(size, channels)


def compare(size: int, channels: int) -> None:
    """A line for either way at one level of the UNet."""
    layer = nn.Linear(channels, 8 * channels).half()
    x = torch.randn(ROWS, size**2, channels, dtype=torch.float16)
    expected = geglu(layer(x)).float()
    ways = {"library": _library, "ours": _ours}
    for name, way in ways.items():
        label = f"{size:3d} px, {ROWS * size**2:6d} tokens, {name:8s}"
        try:
            error = float((way(layer, x).float() - expected).norm() / expected.norm())
            print(f"{label} {milliseconds(partial(way, layer, x), 10):7.3f} ms, {error:.0e}")
        except Exception as failed:  # the next one is to run whatever failed here
            print(f"{label} FAILED {str(failed)[:300]}", flush=True)


def _library(layer: nn.Linear, x: Tensor) -> Tensor:
    return geglu(layer(x))


def _ours(layer: nn.Linear, x: Tensor) -> Tensor:
    return linear_geglu(x, layer.weight, layer.bias)


if __name__ == "__main__":
    main()
