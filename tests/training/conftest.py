"""One toy run that the training tests share: smallest networks, pictures of 96 px."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.recipe import Recipe
from training.run import Run


@pytest.fixture
def toy_run(tmp_path: Path) -> Run:
    return Run(Recipe.load("toy"), torch.device("cpu"), tmp_path / "tree", tmp_path / "out")
