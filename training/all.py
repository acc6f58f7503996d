"""Train the components one after another: ``python -m training.all --minutes 9 --out FOLDER``.

The command writes weights, curves and sheets after each component and in between, so that a run
that is cut off leaves what it had. ``--tree`` goes on from a tree of an earlier command.
"""

from __future__ import annotations

import argparse
import time
import traceback
from pathlib import Path

import torch

from training.joint_flow import train_joint_flow
from training.kernel_check import check_kernels
from training.latent_flow import train_latent_flow
from training.picture_vae import train_picture_vae
from training.recipe import Recipe
from training.run import Run
from training.structure_vae import train_structure_vae
from training.surface import train_surface

STAGES = {
    "picture_vae": train_picture_vae,
    "structure_vae": train_structure_vae,
    "joint_flow": train_joint_flow,
    "surface": train_surface,
    "latent_flow": train_latent_flow,
}


def train_all(run: Run, minutes: float, chosen: list[str]) -> list[str]:
    """Share the minutes out by the recipe; what one stage leaves over goes to the next ones.

    A stage that fails does not take the others with it: minutes on a GPU do not come back. Returns
    the names of the stages that failed.
    """
    failed = []
    deadline = time.monotonic() + 60 * minutes
    for index, name in enumerate(chosen):
        left = (deadline - time.monotonic()) / 60
        shares = [run.recipe.stages[stage].share for stage in chosen[index:]]
        print(f"== {name}: {left * shares[0] / sum(shares):.2f} minutes", flush=True)
        try:
            STAGES[name](run, max(left, 0.02) * shares[0] / sum(shares))
        except Exception:
            traceback.print_exc()
            failed.append(name)
    run.workspace.pack()
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="small", help="a file of training/configs, or a path")
    parser.add_argument("--minutes", type=float, required=True, help="for all chosen components")
    parser.add_argument("--components", default=",".join(STAGES), help="in this order")
    parser.add_argument("--out", type=Path, required=True, help="pieces, curves and sheets")
    parser.add_argument("--tree", type=Path, default=Path("/tmp/synchuman-tree"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    chosen = arguments.components.split(",")
    unknown = [name for name in chosen if name not in STAGES]
    if unknown:
        parser.error(f"unknown components {unknown}; choose from {', '.join(STAGES)}")
    recipe = Recipe.load(arguments.recipe)
    run = Run(recipe, torch.device(arguments.device), arguments.tree, arguments.out)
    check_kernels(run.device)
    failed = train_all(run, arguments.minutes, chosen)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
