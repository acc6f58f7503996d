"""A ring of encoded people: now and then some are replaced, and every person is seen several times.

Drawing and encoding people costs more than a step, and a dozen of them nearly as much as a hundred.
A frozen pool of a few thousand is learnt by heart; a ring that turns is not (training.md 7).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Rows = dict[str, torch.Tensor]  # every tensor starts with the axis of subjects


class SubjectRing:
    """Keeps the newest ``size`` rows on the device; ``fresh`` makes some, once in ``every`` draws.

    ``filled`` is how many it has before the first draw.
    """

    def __init__(
        self,
        size: int,
        fresh: Callable[[], Rows],
        generator: torch.Generator,
        *,
        every: int = 1,
        filled: int = 1,
    ) -> None:
        self.size = size
        self.fresh = fresh
        self.generator = generator
        self.every = every
        self.filled = min(filled, size)
        self.rows: Rows = {}
        self.written = 0
        self.draws = 0

    def draw(self, count: int) -> Rows:
        """``count`` random rows."""
        if self.draws % self.every == 0:
            self._renew()
        while self.written < self.filled:
            self._renew()
        self.draws += 1
        held, device = min(self.written, self.size), self.generator.device
        chosen = torch.randint(held, (count,), generator=self.generator, device=device)
        return {name: values[chosen] for name, values in self.rows.items()}

    def _renew(self) -> None:
        new = self.fresh()
        added = len(next(iter(new.values())))
        device = self.generator.device
        place = torch.arange(self.written, self.written + added, device=device) % self.size
        for name, values in new.items():
            if name not in self.rows:
                shape = (self.size, *values.shape[1:])
                self.rows[name] = torch.empty(shape, dtype=values.dtype, device=values.device)
            self.rows[name][place] = values
        self.written += added
