"""A ring of encoded people: each step replaces a few, and every person is seen several times.

Drawing and encoding people costs as much as a step. A frozen pool of a few thousand is learnt by
heart; a ring that turns is not (training.md 7).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Rows = dict[str, torch.Tensor]  # every tensor starts with the axis of subjects


class SubjectRing:
    """Keeps the newest ``size`` rows on the device."""

    def __init__(self, size: int, fresh: Callable[[], Rows], generator: torch.Generator) -> None:
        self.size = size
        self.fresh = fresh
        self.generator = generator
        self.rows: Rows = {}
        self.written = 0

    def draw(self, count: int) -> Rows:
        """Add fresh rows and return ``count`` random ones, the fresh ones first."""
        new = self.fresh()
        added = len(next(iter(new.values())))
        place = torch.arange(self.written, self.written + added) % self.size
        for name, values in new.items():
            if name not in self.rows:
                shape = (self.size, *values.shape[1:])
                self.rows[name] = torch.empty(shape, dtype=values.dtype, device=values.device)
            self.rows[name][place.to(values.device)] = values
        self.written += added
        held = min(self.written, self.size)
        device = self.generator.device
        others = torch.randint(
            held, (max(0, count - added),), generator=self.generator, device=device
        )
        chosen = torch.cat([place.to(device), others])[:count]
        return {name: values[chosen] for name, values in self.rows.items()}
