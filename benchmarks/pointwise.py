"""Every fused kernel of the norms and of pointwise.py against its plain form at official sizes.

    python -m benchmarks.pointwise --only norm

Prints the largest difference (in units of the last place of float16 at the value's size) and both
times; needs a CUDA device.
"""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deployments.layers import group_norm as norms
from deployments.layers import pointwise

ROWS, VIEWS = 20, 5
LEVELS = ((96, 320), (48, 640), (24, 1280), (12, 1280))  # pixels a side, channels


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="part of the steps' names")
    arguments = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    with torch.inference_mode(), torch.device("cuda"):
        measure(arguments.only)


def measure(only: str) -> None:
    """A line for every step at every level."""
    for size, channels in LEVELS:
        for name, work in steps(size, channels).items():
            if only not in name:
                continue
            try:
                moved = PASSES.get(name, 0.0) * 2 * ROWS * channels * size**2
                report(f"{name} {size} px {channels}", work, moved)
            except Exception:
                print(f"{name} FAILED", traceback.format_exc()[-1500:], flush=True)


def steps(size: int, channels: int) -> dict[str, Callable[[], Any]]:
    """What a level of the UNet, and the flow's blocks, call."""
    half = {"dtype": torch.float16}
    pictures = torch.randn(ROWS, channels, size, size, **half)
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    shift, bias = torch.randn(ROWS, channels, **half), torch.randn(channels, **half)
    group = nn.GroupNorm(32, channels).half()
    tokens = torch.randn(ROWS, size * size, channels, **half)
    more = torch.randn_like(tokens)
    layer = nn.LayerNorm(channels).half()
    gated = torch.randn(ROWS, size * size, 8 * channels, **half)
    grouped = pointwise.to_rowwise(more, VIEWS).contiguous()
    qkv = torch.randn(2, 4096, 3, 16, 64, **half)
    gamma = torch.randn(16, 64, **half)
    sums = torch.zeros_like(tokens)  # is added to again and again: stays zero with zeros
    square = torch.randn(channels, channels, **half)
    joint = nn.GroupNorm(32, 2 * channels).half()
    return {
        "group_norm": lambda: norms.group_norm(pictures, group, shift),
        "group_norm_skip": lambda: norms.group_norm(pictures, joint, skip=pictures),
        "moments": lambda: norms.channel_moments(pictures),
        "add_bias": lambda: norms.add_bias(pictures, bias, pictures).pixels,
        "layer_norm": lambda: pointwise.layer_norm(tokens, layer),
        "add_gated": lambda: pointwise.add_gated(tokens, more, bias),
        "add_product": lambda: pointwise.add_product(sums, torch.zeros_like(more), square),
        "geglu": lambda: pointwise.geglu(gated),
        "add_norm": lambda: pointwise.add_norm(tokens, more, layer),
        "norm_shifted": lambda: pointwise.norm_shifted(tokens, layer, bias),
        "to_rowwise": lambda: pointwise.norm_to_rowwise(tokens, layer, bias, VIEWS),
        "from_rowwise": lambda: pointwise.add_rowwise_norm(tokens, grouped, layer, bias, VIEWS),
        "modulated": lambda: pointwise.add_norm_modulated(tokens, more, bias, bias, 1e-6),
        "head_rms_norm": lambda: pointwise.head_rms_norm(qkv[:, :, 0], gamma),
    }


# Bytes that a step has to move at least, in passes over a tensor of ``pictures``' size.
PASSES = {
    "group_norm": 3.0,
    "group_norm_skip": 6.0,
    "moments": 1.0,
    "add_bias": 3.0,
    "layer_norm": 2.0,
    "add_gated": 3.0,
    "geglu": 12.0,
    "add_norm": 4.0,
    "norm_shifted": 2.0,
    "to_rowwise": 1.6,
    "from_rowwise": 3.8,
    "modulated": 4.0,
}


def report(name: str, work: Callable[[], Any], moved: float) -> None:
    """One line: difference, milliseconds of both forms, GB/s of the fused one."""
    found, times = [], []
    for fused in (True, False):
        pointwise.use_kernels(fused)
        found.append(work())
        times.append(milliseconds(work))
    worst = max(ulps(a, b) for a, b in zip(*map(_listed, found), strict=True))
    fused, plain = times
    rate = f"{moved / fused / 1e6:6.0f} GB/s" if moved else ""
    print(f"{name:30s} {worst:6.1f} ulp {fused:8.3f} ms, plain {plain:8.3f} ms {rate}", flush=True)


def ulps(a: Tensor, b: Tensor) -> float:
    """Largest difference in units of float16's last place."""
    unit = torch.maximum(a.float().abs(), b.float().abs()).clamp(min=2**-3) * 2**-10
    return float(((a.float() - b.float()).abs() / unit).max())


def milliseconds(work: Callable[[], Any], runs: int = 20) -> float:
    """Mean time on the device."""
    work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(runs):
        work()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / runs


def _listed(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


if __name__ == "__main__":
    main()
