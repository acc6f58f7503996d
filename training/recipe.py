"""A recipe: which networks, how long, how fast. Read from a YAML file in ``training/configs``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).with_name("configs")


@dataclass(frozen=True)
class Stage:
    """How one component is trained."""

    share: float  # of the minutes that the command has
    batch: int  # subjects a step
    rate: float  # peak learning rate
    fresh: int = 16  # subjects drawn anew at once, where a ring of subjects is kept
    every: int = 1  # steps from one such draw to the next
    ring: int = 1  # subjects kept
    filled: int = 1  # of them before the first step
    frozen_dinov2: bool = False  # joint flow: Stage 2 was trained on what DINOv2 says now
    frozen_encoder: bool = False  # picture VAE: the joint flow knows its latents as they are
    compiled: bool = False  # joint flow: its blocks, which takes a minute
    max_steps: int | None = None
    average: float = 0.998  # decay of the moving average of the weights


@dataclass(frozen=True)
class Recipe:
    """Everything a run needs to know beside minutes and folders."""

    preset: str
    stages: dict[str, Stage]
    seed: int = 1
    sheet_subjects: int = 6  # people on the sheets that are looked at
    samples: int = 2  # supersampling of pictures
    sampler_steps: int = 25  # of the flow, where it is measured
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def load(name: str) -> Recipe:
        """``name`` is a file of ``training/configs`` without its ending, or a path."""
        path = CONFIGS / f"{name}.yaml"
        values = yaml.safe_load((path if path.is_file() else Path(name)).read_text())
        stages = {stage: Stage(**settings) for stage, settings in values.pop("stages").items()}
        return Recipe(stages=stages, **values)
