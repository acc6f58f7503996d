"""Time, memory and exactness of Stage 1's steps, as a table and as JSON.

    python -m benchmarks.stage1 --variants graph,one-stream,fp8 --compare graph,fp8 --out a.json
    python -m benchmarks.stage1 --checkpoint random:small --steps 3

    python -m benchmarks.stage1 --write-tree /tmp/tree --checkpoint /tmp/tree \
        --variants none --whole

A variant says how a step runs: ``eager`` plain torch, ``kernels`` with fused kernels, ``graph``
these recorded as a CUDA graph (what the pipeline does on a GPU), ``one-stream`` the same without
the flow beside the UNet, ``fp8`` with the large linear layers in FP8, ``compile`` blocks compiled
and recorded, ``compile-kernels`` with fused kernels, too. ``--attention sdpa`` leaves attention to
torch alone.

``--compare`` names those whose views are held against one run in plain float32. Each part is tried
on its own: one that fails is reported and the next one runs. The JSON file is written after every
part.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ledger import Ledger
from benchmarks.profile_table import profile_by_category
from benchmarks.random_tree import write_stage1_tree
from deployments.checkpoints.checkpoint import Checkpoint, open_checkpoint
from deployments.checkpoints.component import Component
from deployments.contracts import GenerationOptions, PreparedImage, Progress
from deployments.layers.attention import choose_backend
from deployments.layers.float8 import require_float8
from deployments.layers.flow_schedule import flow_schedule
from deployments.layers.pointwise import use_kernels
from deployments.stage1.acceleration import Stepper
from deployments.stage1.models.config import JointModelConfig
from deployments.stage1.models.joint_model import Conditioning, JointModel
from deployments.stage1.models.quantised import use_float8
from deployments.stage1.pipeline import Stage1Pipeline
from deployments.stage1.sampler import (
    Latents,
    flow_times,
    initial_noise,
    model_times,
    sample,
)

CARD_TFLOPS = 790  # what an H200 gives bf16 matrix products
OFFICIAL_MS = 272  # a step of the official code there, and the arithmetic in it
OFFICIAL_TFLOP = 70.9
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Variant:
    """How a step runs."""

    kernels: bool
    graph: bool = False
    compile: bool = False
    two_streams: bool = True
    fp8: bool = False


VARIANTS = {
    "eager": Variant(kernels=False),
    "kernels": Variant(kernels=True),
    "graph": Variant(kernels=True, graph=True),
    "one-stream": Variant(kernels=True, graph=True, two_streams=False),
    "fp8": Variant(kernels=True, graph=True, fp8=True),
    "eager-graph": Variant(kernels=False, graph=True),
    "compile": Variant(kernels=False, graph=True, compile=True),
    "compile-kernels": Variant(kernels=True, graph=True, compile=True),
}


def main() -> None:
    arguments = _arguments()
    if arguments.write_tree is not None:
        write_stage1_tree(arguments.write_tree, arguments.device)
    _cap_memory(arguments.memory_cap_gb)
    checkpoint = open_checkpoint(arguments.checkpoint)
    choose_backend(arguments.attention, arguments.device)
    report: dict[str, Any] = {
        "checkpoint": arguments.checkpoint,
        "device": _device_name(arguments.device),
        "torch": torch.__version__,
        "dtype": arguments.dtype,
        "official_ms": OFFICIAL_MS,
        "memory_cap_gb": arguments.memory_cap_gb,
        "variants": {},
    }
    names = list(VARIANTS) if arguments.variants == "all" else arguments.variants.split(",")
    names = [name for name in names if name != "none"]
    for name in names:
        work = partial(measure, checkpoint, VARIANTS[name], arguments)
        _attempt(report["variants"], name, work)
        _write(arguments.out, report)
    if arguments.compare:
        report["against_fp32"] = compared = {"steps": arguments.compare_steps}
        reference = _reference(checkpoint, arguments)
        _free(arguments.device)
        for name in arguments.compare.split(","):
            work = partial(compare, checkpoint, VARIANTS[name], reference, arguments)
            _attempt(compared, name, work)
            _write(arguments.out, report)
    if arguments.whole:
        _attempt(report, "whole", lambda: whole(checkpoint, arguments))
    _write(arguments.out, report)
    print(json.dumps(report, indent=1))


def measure(
    checkpoint: Checkpoint, variant: Variant, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Milliseconds a step, arithmetic rate, memory and a profile of one variant."""
    start = time.perf_counter()
    run = Run(checkpoint, variant, arguments.device, DTYPES[arguments.dtype], arguments.guidance)
    _synchronise(arguments.device)
    loaded = time.perf_counter() - start
    _reset_peak(arguments.device)
    with torch.inference_mode():
        velocities = run.start(arguments.steps)
        start = time.perf_counter()
        velocities(run.noise, 0)
        _synchronise(arguments.device)
        first = time.perf_counter() - start
        seconds = [
            _seconds(lambda i=i: velocities(run.noise, i), arguments.device)
            for i in range(arguments.steps)
        ]
        # As in a run: a step is queued while the one before is still computed.
        in_a_run = _seconds(
            lambda: [velocities(run.noise, i) for i in range(arguments.steps)], arguments.device
        )
        flop = run.flop()
        profile = profile_by_category(lambda: velocities(run.noise, 0), arguments.device)
    ms = 1000 * statistics.median(seconds)
    rate = flop / ms / 1e9
    return {
        "ms_a_step": round(ms, 2),
        "fastest_ms": round(1000 * min(seconds), 2),
        "ms_in_a_run": round(1000 * in_a_run / arguments.steps, 2),
        "tflop": round(flop / 1e12, 2),
        "tflop_a_second": round(rate, 1),
        "share_of_card": round(rate / CARD_TFLOPS, 3),
        "load_s": round(loaded, 2),
        "first_step_s": round(first, 2),
        "peak_gb": _peak(arguments.device),
        "profile_ms": profile,
    }


def _reference(checkpoint: Checkpoint, arguments: argparse.Namespace) -> Latents:
    """What plain float32 samples from the noise of a run in ``--dtype``."""
    dtype, device = DTYPES[arguments.dtype], arguments.device
    plain = Run(checkpoint, VARIANTS["eager"], device, torch.float32, arguments.guidance)
    noise = plain.draw_noise(dtype)
    # The same times in both: rounding them to float16 is the method's, not an error of the step.
    return plain.sample(arguments.compare_steps, noise, times_as=dtype)


def compare(
    checkpoint: Checkpoint, variant: Variant, wanted: Latents, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Latents and final views of ``variant`` against those of the reference."""
    from deployments.stage1.picture_vae import PictureVae

    dtype, device = DTYPES[arguments.dtype], arguments.device
    fast = Run(checkpoint, variant, device, dtype, arguments.guidance)
    found = fast.sample(arguments.compare_steps, fast.noise)
    del fast
    _free(device)
    vae = PictureVae.from_checkpoint(checkpoint, device=device, dtype=torch.float32)
    with torch.inference_mode():
        views = [vae.decode(latents.pictures).cpu() for latents in (found, wanted)]
    return {
        "views_psnr_db": round(_psnr(*views, 1.0), 2),
        "each_view_psnr_db": [round(_psnr(a, b, 1.0), 2) for a, b in zip(*views, strict=True)],
        "picture_latents_psnr_db": _latent_psnr(found.pictures, wanted.pictures),
        "structure_psnr_db": _latent_psnr(found.structure, wanted.structure),
    }


def whole(checkpoint: Checkpoint, arguments: argparse.Namespace) -> dict[str, Any]:
    """Load time, then the pipeline from a prepared picture to views and voxels, twice."""
    use_kernels(True)
    start = time.perf_counter()
    loading = Ledger(arguments.device)
    torch.zeros(1, device=arguments.device)
    loading("device")
    pipeline = Stage1Pipeline.from_checkpoint(
        checkpoint,
        device=arguments.device,
        dtype=DTYPES[arguments.dtype],
        attention=arguments.attention,
        ready=loading,
    )
    ready = time.perf_counter() - start
    running = Ledger(arguments.device)

    def note(progress: Progress) -> None:
        if not progress.sampling:
            running(f"before {progress.message}")

    size, condition = checkpoint.method.picture_size, checkpoint.method.condition_size
    picture = np.random.default_rng(0).integers(0, 255, (size, size, 4), dtype=np.uint8)
    prepared = PreparedImage(
        original=picture,
        rgba=picture,
        front=picture[..., :3],
        face=picture[..., :3],
        condition=picture[:condition, :condition, :3],
        alpha_coverage=1.0,
    )
    options = GenerationOptions(stage1_steps=arguments.compare_steps)
    timings = []
    for seed in (1, 2):
        timings.append(pipeline(prepared, replace(options, seed=seed), progress=note).timings)
        running("end of the run")
    print(loading.table(), running.table(), sep="\n")
    return {
        "ready_s": round(ready, 2),
        "timings_s": timings,
        "peak_gb_loading": loading.peak_gb,
        "peak_gb": running.peak_gb,
        "loading": loading.rows,
        "running": running.rows,
    }


class Run:
    """One variant of the model with the inputs of a run."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        variant: Variant,
        device: str,
        dtype: torch.dtype,
        guidance: float,
    ) -> None:
        torch._dynamo.reset()
        use_kernels(variant.kernels)
        self.config = JointModelConfig.from_dict(checkpoint.config(Component.JOINT_MODEL))
        if variant.fp8:
            require_float8(device)
        model = checkpoint.load(
            Component.JOINT_MODEL, lambda: JointModel(self.config), device=device, dtype=dtype
        ).prepare_for_inference()
        if variant.fp8:
            use_float8(model)
        self.stepper = Stepper(
            model,
            compile=variant.compile,
            graph=variant.graph and device.startswith("cuda"),
            two_streams=variant.two_streams,
        )
        self.device, self.dtype, self.guidance = device, dtype, guidance
        self.rescale_t = checkpoint.method.rescale_t
        c = self.config
        generator = torch.Generator().manual_seed(1)
        pictures = 2 * c.num_views

        def drawn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        self.conditioning = Conditioning(
            checkpoint.prompt_embeddings(),
            drawn(pictures, c.projection_class_embeddings_input_dim),
            drawn(pictures, 4, c.sample_size, c.sample_size),
            drawn(1, 5 + (checkpoint.method.condition_size // 14) ** 2, c.cond_channels),
        )
        self.noise = self.draw_noise(dtype)

    def draw_noise(self, dtype: torch.dtype) -> Latents:
        """The noise of a run in that precision."""
        c, pictures = self.config, 2 * self.config.num_views
        return initial_noise(
            43,
            (pictures, c.out_channels, c.sample_size, c.sample_size),
            (1, c.trellis_in_channels, *[c.resolution] * 3),
            device=self.device,
            dtype=dtype,
            unused=(pictures, c.projection_class_embeddings_input_dim // 2),
        )

    def start(
        self, steps: int, times_as: torch.dtype | None = None
    ) -> Callable[[Latents, int], tuple[torch.Tensor, torch.Tensor]]:
        """The function that evaluates the steps of a run."""
        schedule = flow_schedule(steps, self.rescale_t)
        return self.stepper.start(
            self.conditioning,
            model_times(schedule),
            flow_times=flow_times(schedule, times_as or self.dtype),
            guided=self.guidance != 1.0,
        )

    @torch.inference_mode()
    def sample(self, steps: int, noise: Latents, times_as: torch.dtype | None = None) -> Latents:
        """All steps from ``noise``."""
        return sample(
            self.start(steps, times_as),
            noise,
            flow_schedule(steps, self.rescale_t),
            guidance=self.guidance,
            seed=43,
            progress=lambda _: None,
            cancelled=lambda: False,
        )

    def flop(self) -> float:
        """Floating-point operations of one step, counted on shapes alone."""
        with torch.device("meta"):
            model = JointModel(self.config).to(self.dtype)
        meta = Conditioning(*(x.to("meta") for x in vars(self.conditioning).values()))
        noise = [x.to("meta") for x in self.noise]
        with FlopCounterMode(display=False) as counter:
            prepared = model.prepare(meta, [1000.0], guided=self.guidance != 1.0)
            before = counter.get_total_flops()
            model(
                model.pictures(noise[0], prepared),
                noise[1],
                prepared,
                prepared.time_shifts[0],
                prepared.modulation[0],
            )
        return float(counter.get_total_flops() - before)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", default="random:official")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default=None)
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--variants", default="graph", help=f"of {', '.join(VARIANTS)}; all, none")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--compare", default="", help="variants to hold against plain float32")
    parser.add_argument("--compare-steps", type=int, default=50)
    parser.add_argument("--memory-cap-gb", type=float, default=None, help="of this process")
    parser.add_argument(
        "--write-tree", type=Path, default=None, help="write random weights of official size first"
    )
    parser.add_argument("--whole", action="store_true", help="time the whole pipeline, too")
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    arguments = parser.parse_args()
    if arguments.dtype is None:
        arguments.dtype = "float16" if arguments.device.startswith("cuda") else "float32"
    return arguments


def _attempt(into: dict[str, Any], name: str, work: Callable[[], dict[str, Any]]) -> None:
    """Run one measurement; a failure becomes its result."""
    try:
        into[name] = work()
        shown = {
            key: value
            for key, value in into[name].items()
            if key not in ("profile_ms", "loading", "running")
        }
        print(f"{name:16s} {shown}", flush=True)
    except Exception as error:  # the next variant is to run whatever failed here
        into[name] = {"error": f"{type(error).__name__}: {error}"}
        print(f"{name:16s} FAILED", traceback.format_exc()[-3000:], flush=True)
    _free("cuda" if torch.cuda.is_available() else "cpu")


def _seconds(work: Callable[[], object], device: str) -> float:
    _synchronise(device)
    start = time.perf_counter()
    work()
    _synchronise(device)
    return time.perf_counter() - start


def _psnr(a: torch.Tensor, b: torch.Tensor, peak: float) -> float:
    error = (a.double() - b.double()).square().mean().item()
    return float(10 * np.log10(peak**2 / max(error, 1e-20)))


def _latent_psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return round(_psnr(a, b, float(b.max() - b.min())), 2)


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _reset_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()


def _cap_memory(gigabytes: float | None) -> None:
    """Let this process take no more of the device than that."""
    if gigabytes is not None and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * 1e9 / total))


def _peak(device: str) -> float | None:
    if not device.startswith("cuda"):
        return None
    return round(torch.cuda.max_memory_reserved() / 1e9, 2)


def _free(device: str) -> None:
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _write(file: Path | None, report: dict[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
