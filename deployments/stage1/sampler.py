"""Sampling of Stage 1: Euler steps of two coupled flows with guidance (model.md 7, 17, 18).

Pure functions over tensors. P = 2 V pictures, normal rows first; G guidance branches, the
unconditional one first where there are two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from deployments.contracts import CancelCheck, Progress, ProgressCallback
from deployments.errors import Cancelled, GenerationError

STAGE = "stage1"
TIME_SCALE = 1000  # the networks' time is 1000 t


class Latents(NamedTuple):
    """The two latents that are sampled together, both float32."""

    pictures: Tensor  # (P, 4, S, S)
    structure: Tensor  # (1, C, R, R, R)


# (latents, index of the step) -> velocities (G, P, 4, S, S) and (G, C, R, R, R)
Velocities = Callable[[Latents, int], tuple[Tensor, Tensor]]


def model_times(schedule: Sequence[float]) -> list[float]:
    """Times of the steps as the picture network takes them."""
    return [TIME_SCALE * t for t in schedule[:-1]]


def flow_times(schedule: Sequence[float], dtype: torch.dtype) -> list[float]:
    """Times of the steps as the structure flow takes them.

    In half precision the official code rounds them to float16 (steps of 0.5 above 512), and the
    published weights are used that way; in float32 they are those of the picture network.
    """
    times = model_times(schedule)
    if dtype == torch.float32:
        return times
    return torch.tensor(times, dtype=torch.float64).to(torch.float16).tolist()


def initial_noise(
    seed: int,
    picture_shape: Sequence[int],
    structure_shape: Sequence[int],
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    unused: Sequence[int] = (),
) -> Latents:
    """Unit Gaussian latents, drawn as the official run draws them.

    Structure noise is the first draw of a CPU generator with this seed. Picture noise comes from
    the device's generator with the same seed, in the networks' precision, after a draw of the shape
    ``unused`` (the official code draws noise for CLIP vectors that it then does not add). On the
    CPU there is one generator for both.
    """
    device = torch.device(device)
    on_cpu = torch.Generator().manual_seed(seed)
    structure = torch.randn(tuple(structure_shape), generator=on_cpu)
    if device.type == "cpu":
        pictures = torch.randn(tuple(picture_shape), generator=on_cpu)
        return Latents(pictures, structure)
    generator = torch.Generator(device).manual_seed(seed)
    torch.randn(tuple(unused), generator=generator, device=device, dtype=dtype)
    pictures = torch.randn(tuple(picture_shape), generator=generator, device=device, dtype=dtype)
    return Latents(pictures.float(), structure.to(device))


def scaled(noise: Latents, scales: Sequence[float]) -> Latents:
    """Noise whose normal maps, colour pictures and structure are multiplied by one scale each.

    ``noise.pictures`` is (2 V, 4, s, s) with the normal maps first. Scales of 1 change no bit.
    """
    of_normals, of_colors, of_structure = scales
    normals, colors = noise.pictures.chunk(2)
    return Latents(
        torch.cat([of_normals * normals, of_colors * colors]), of_structure * noise.structure
    )


def guide(velocity: Tensor, guidance: float) -> Tensor:
    """Velocities by branch (G, ...) -> the guided one (...), float32."""
    velocity = velocity.float()
    if velocity.shape[0] == 1:
        return velocity[0]
    unconditional, conditional = velocity
    return unconditional + guidance * (conditional - unconditional)


def euler(latents: Latents, velocities: Latents, interval: float) -> Latents:
    """Walk along the velocities for ``interval`` of time, towards 0."""
    return Latents(*(x - interval * v for x, v in zip(latents, velocities, strict=True)))


def sample(
    velocities: Velocities,
    noise: Latents,
    schedule: Sequence[float],
    *,
    guidance: float,
    seed: int,
    progress: ProgressCallback,
    cancelled: CancelCheck,
) -> Latents:
    """Go from noise to the latents of a person.

    ``progress`` is told after every step, ``cancelled`` asked before; on a GPU the next step is
    queued by the time a step is told. Raises ``Cancelled``, and ``GenerationError`` naming the
    seed when a latent stops being finite.
    """
    latents, steps = noise, len(schedule) - 1
    ahead = 1 if noise.pictures.is_cuda else 0
    queued: list[_Step] = []
    for index, (time, following) in enumerate(pairwise(schedule)):
        if cancelled():
            raise Cancelled
        of_pictures, of_structure = velocities(latents, index)
        guided = Latents(guide(of_pictures, guidance), guide(of_structure, guidance)[None])
        latents = euler(latents, guided, time - following)
        queued.append(_Step(latents, index + 1, steps))
        if len(queued) > ahead:
            queued.pop(0).report(progress, seed)
    for step in queued:
        step.report(progress, seed)
    return latents


class _Step:
    """A step that was given to the device, and on the way back from there whether it went well.

    A GPU is asked about a step when the next one is already queued: it never waits for the answer.
    """

    def __init__(self, latents: Latents, number: int, steps: int) -> None:
        self._number, self._steps = number, steps
        # A sum is finite when all its terms are: one number comes back from the device, not three.
        self._finite = torch.isfinite(latents.pictures.sum() + latents.structure.sum())
        self._arrived: torch.cuda.Event | None = None
        if self._finite.is_cuda:
            there = torch.empty((), dtype=torch.bool, pin_memory=True)
            self._finite = there.copy_(self._finite, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def report(self, progress: ProgressCallback, seed: int) -> None:
        """Wait for the step and tell ``progress``. Raises ``GenerationError`` if it went wrong."""
        if self._arrived is not None:
            self._arrived.synchronize()
        if not bool(self._finite):
            raise GenerationError(
                f"the Stage 1 latents are not finite after step {self._number} of {self._steps} "
                f"with seed {seed}: try another seed, or compute in bfloat16 or float32",
                code="not_finite",
                seed=seed,
                step=self._number,
            )
        message = "sampling views and structure"
        progress(Progress(STAGE, self._number, self._steps, message, sampling=True))
