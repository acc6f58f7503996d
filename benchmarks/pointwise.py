"""Every fused kernel of deployments/layers/pointwise.py against its plain form at official sizes.

    python -m benchmarks.pointwise

Prints the largest difference (in units of the last place of float16 at the value's size) and both
times; needs a CUDA device.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deployments.layers import pointwise

ROWS, VIEWS = 20, 5
LEVELS = ((96, 320), (48, 640), (24, 1280), (12, 1280))  # pixels a side, channels


def main() -> None:
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    with torch.inference_mode(), torch.device("cuda"):
        for size, channels in LEVELS:
            for name, work in steps(size, channels).items():
                try:
                    report(f"{name} {size} px {channels}", work)
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
    return {
        "group_norm": lambda: pointwise.group_norm(pictures, group, shift),
        "add_bias": lambda: pointwise.add_bias(pictures, bias, pictures),
        "geglu": lambda: pointwise.geglu(gated),
        "add_norm": lambda: pointwise.add_norm(tokens, more, layer),
        "to_rowwise": lambda: pointwise.add_norm_to_rowwise(tokens, more, layer, VIEWS),
        "from_rowwise": lambda: pointwise.add_rowwise_norm(tokens, grouped, layer, VIEWS),
        "modulated": lambda: pointwise.add_norm_modulated(tokens, more, bias, bias, 1e-6),
        "head_rms_norm": lambda: pointwise.head_rms_norm(qkv[:, :, 0], gamma),
    }


def report(name: str, work: Callable[[], Any]) -> None:
    """One line: difference and milliseconds of both forms."""
    found, times = [], []
    for fused in (True, False):
        pointwise.use_kernels(fused)
        found.append(work())
        times.append(milliseconds(work))
    worst = max(ulps(a, b) for a, b in zip(*map(_listed, found), strict=True))
    fused, plain = times
    print(f"{name:28s} {worst:6.1f} ulp {fused:8.3f} ms, plain {plain:8.3f} ms", flush=True)


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
