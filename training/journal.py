"""What a run leaves to look at: curves as JSON, people as PNG, lines on the console."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

CELL = 96  # pixels a picture on a sheet


class Journal:
    """Collects measurements of all components; every entry is on disk at once."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.started = time.monotonic()
        path = out / "curves.json"
        self.curves: dict[str, list[dict[str, float]]] = (
            json.loads(path.read_text()) if path.is_file() else {}
        )

    def add(self, component: str, step: int, values: Mapping[str, float]) -> None:
        """Note values of a component at a step, and print them."""
        seconds = round(time.monotonic() - self.started, 1)
        entry = {"seconds": seconds, "step": step} | {k: round(v, 5) for k, v in values.items()}
        self.curves.setdefault(component, []).append(entry)
        (self.out / "curves.json").write_text(json.dumps(self.curves))
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"{seconds:7.1f} s  {component} {step}:  {shown}", flush=True)

    def sheet(self, name: str, rows: Sequence[Sequence[torch.Tensor]]) -> None:
        """Write a PNG of equal rows of (3, S, S) pictures in 0..1."""
        cells = [
            torch.cat(
                [F.interpolate(p[None].float(), (CELL, CELL), mode="area")[0] for p in row], -1
            )
            for row in rows
        ]
        pixels = torch.cat(cells, -2).clamp(0, 1).mul(255).byte().permute(1, 2, 0).cpu().numpy()
        Image.fromarray(pixels).save(self.out / f"{name}.png")
