"""The one training loop: AdamW until the time is up, with a moving average of the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from training.journal import Journal
from training.recipe import Stage
from training.step import Losses, RecordedStep, Step

WARM_UP = 0.04  # of the time
FLOOR = 0.03  # of the peak rate, at the end
LOG_SECONDS = 5.0
SAVE_SECONDS = 100.0

Inputs = TypeVar("Inputs")


class Average:
    """Exponential moving average of parameters; young averages forget faster."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.values = [p.detach().clone() for p in self.parameters]

    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Parameters hold the averages inside."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, self.values, strict=True):
                held = parameter.detach().clone()
                parameter.copy_(value)
                value.copy_(held)


def rate_factor(progress: float) -> float:
    """Share of the peak learning rate at a share of the time: linear warm-up, then a cosine."""
    warm = min(1.0, progress / WARM_UP)
    return warm * (FLOOR + (1 - FLOOR) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, progress))))


def fit(
    name: str,
    draw: Callable[[], Inputs],
    losses: Callable[[Inputs], Losses],
    modules: Iterable[nn.Module],
    stage: Stage,
    *,
    minutes: float,
    journal: Journal,
    save: Callable[[], None],
) -> int:
    """Minimise ``losses(draw())["loss"]`` for ``minutes``; then the modules hold the averages.

    Draws that are dictionaries of tensors keep their shapes, and their step is recorded on a GPU.
    ``save`` is called every now and then, and at the end, with the averages in place. A step
    whose gradient is not finite changes nothing. Returns the number of steps.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    cuda = parameters[0].device.type == "cuda"
    optimizer = torch.optim.AdamW(
        parameters, lr=stage.rate, betas=(0.9, 0.95), weight_decay=0.01, fused=cuda
    )
    average = Average(parameters, stage.average)
    started = logged = saved = time.monotonic()
    step, logged_step = 0, 0
    evaluate: Step[Inputs] | None = None
    while True:
        progress = (time.monotonic() - started) / (60 * minutes)
        if progress >= 1 or (stage.max_steps is not None and step >= stage.max_steps):
            break
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * rate_factor(max(progress, 1e-3))
        inputs = draw()
        if evaluate is None:
            kind = RecordedStep if isinstance(inputs, dict) else Step
            evaluate = kind(losses, parameters)  # type: ignore[arg-type, assignment]
        values, norm = evaluate(inputs)
        _descend(optimizer, norm)
        average.update(step)
        step += 1
        now = time.monotonic()
        if now - logged > LOG_SECONDS or step == 1:
            shown = {key: float(value) for key, value in values.items()}
            shown["steps_per_second"] = (step - logged_step) / max(now - logged, 1e-9)
            journal.add(name, step, shown)
            logged, logged_step = now, step
        if now - saved > SAVE_SECONDS:
            with average.applied():
                save()
            saved = time.monotonic()
    with torch.no_grad():
        for parameter, value in zip(average.parameters, average.values, strict=True):
            parameter.copy_(value)
    save()
    journal.add(name, step, {"finished_after": time.monotonic() - started})
    return step


def _descend(optimizer: torch.optim.AdamW, norm: torch.Tensor) -> None:
    """One step of the optimiser, or none where the gradient is not finite."""
    if norm.is_cuda:
        # The fused optimiser reads this flag on the device: asking here would wait for the GPU.
        optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
    elif not bool(torch.isfinite(norm)):
        return
    optimizer.step()
