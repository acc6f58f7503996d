"""Device time of some work by kind of kernel, from torch's profiler."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# The first word found in a kernel's name decides.
CATEGORIES = {
    "own kernels": (
        "_geglu",
        "_linear_geglu",
        "_mean_into",
        "_channel_moments",
        "_group_factors",
        "_scale_channels",
        "_add_norm",
        "_add_scaled",
        "_gathered_attention",
        "_head_rms_norm",
        "_quantise_rows",
    ),
    "attention": ("flash", "fmha", "attention", "sdpa", "cudnn_generated_fort_native"),
    "compiled": ("triton_",),
    "convolution": ("conv", "xmma_fprop", "implicit", "dgrad", "cutlass_tensorop_f16_s16816fprop"),
    "matrix products": ("gemm", "nvjet", "cutlass", "addmm", "aten::mm", "aten::bmm", "cublas"),
    "layout": ("nchwtonhwc", "nhwctonchw", "transpose"),
    "norms": ("norm",),
    "copies": ("copy", "memcpy", "catarray", "aten::cat", "memset"),
    "elementwise": ("elementwise", "vectorized", "gelu", "silu", "aten::add", "aten::mul"),
}


_KERNELS = 30  # of the longest


def profile_by_category(work: Callable[[], object], device: str) -> dict[str, object]:
    """Milliseconds by category, the kernels that take most, and how the device was occupied.

    ``launches`` counts kernels and copies, ``busy_ms`` is how long at least one of them ran,
    ``span_ms`` the time from the first to the end of the last. On a CPU operators stand in for
    kernels.
    """
    on_gpu = device.startswith("cuda")
    activities = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as recorded:
        work()
        if on_gpu:
            torch.cuda.synchronize()
    spent: dict[str, float] = {}
    kernels: dict[str, float] = {}
    for event in recorded.key_averages():
        us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if us > 0:
            spent[category(event.key)] = spent.get(category(event.key), 0.0) + us / 1000
            kernels[event.key[:90]] = kernels.get(event.key[:90], 0.0) + us / 1000
    top = sorted(kernels.items(), key=lambda item: -item[1])[:_KERNELS]
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in recorded.events()
        if (event.device_type != DeviceType.CPU) == on_gpu
    )
    busy, reached = 0.0, float("-inf")
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return {
        "launches": len(spans),
        "busy_ms": round(busy / 1000, 2),
        "span_ms": round((reached - spans[0][0]) / 1000, 2),
        "by_category": {k: round(v, 2) for k, v in sorted(spent.items(), key=lambda i: -i[1])},
        "largest": {name: round(ms, 2) for name, ms in top},
    }


def category(kernel: str) -> str:
    """The category of a kernel's name."""
    name = kernel.lower()
    for label, words in CATEGORIES.items():
        if any(word in name for word in words):
            return label
    return "other"
