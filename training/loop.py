"""The one training loop: AdamW until the time is up, with a moving average of the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from training.journal import Journal
from training.recipe import Stage

WARM_UP = 0.04  # of the time
FLOOR = 0.03  # of the peak rate, at the end
LOG_SECONDS = 5.0
SAVE_SECONDS = 100.0

Losses = dict[str, torch.Tensor]  # scalars; "loss" is the one to follow downhill


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
    losses: Callable[[], Losses],
    modules: Iterable[nn.Module],
    stage: Stage,
    *,
    minutes: float,
    journal: Journal,
    save: Callable[[], None],
) -> int:
    """Minimise ``losses()["loss"]`` for ``minutes``; afterwards the modules hold the averages.

    ``save`` is called every now and then, and at the end, with the averages in place. A step
    whose gradient is not finite changes nothing. Returns the number of steps.
    """
    modules = list(modules)
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    device = parameters[0].device
    cuda = device.type == "cuda"
    optimizer = torch.optim.AdamW(
        parameters, lr=stage.rate, betas=(0.9, 0.95), weight_decay=0.01, fused=cuda
    )
    average = Average(parameters, stage.average)
    started = logged = saved = time.monotonic()
    step, logged_step = 0, 0
    while True:
        progress = (time.monotonic() - started) / (60 * minutes)
        if progress >= 1 or (stage.max_steps is not None and step >= stage.max_steps):
            break
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * rate_factor(max(progress, 1e-3))
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            values = losses()
        optimizer.zero_grad(set_to_none=True)
        values["loss"].backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        if bool(torch.isfinite(norm)):
            optimizer.step()
            average.update(step)
        step += 1
        now = time.monotonic()
        if now - logged > LOG_SECONDS or step == 1:
            shown = {key: float(value.detach()) for key, value in values.items()}
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
