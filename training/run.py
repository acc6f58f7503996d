"""What the stages of one command share."""

from __future__ import annotations

from pathlib import Path

import torch

from training.journal import Journal
from training.networks import NetworkConfigs
from training.recipe import Recipe
from training.subjects import Subjects
from training.workspace import Workspace


class Run:
    """Recipe, networks' configurations, people, folders and journal on one device."""

    def __init__(self, recipe: Recipe, device: torch.device, tree: Path, out: Path) -> None:
        torch.manual_seed(recipe.seed)
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        self.recipe, self.device = recipe, device
        self.configs = NetworkConfigs(recipe.preset, recipe.overrides)
        self.workspace = Workspace(tree, out)
        self.journal = Journal(out)
        generator = torch.Generator(device).manual_seed(recipe.seed)
        unseen = torch.Generator(device).manual_seed(recipe.seed + 77)
        method, samples = self.configs.method, recipe.samples
        self.subjects = Subjects(method, generator, samples=samples)
        self.held_out = Subjects(method, unseen, samples=samples, held_out=True)
