"""Render the sample photo of the demo and the tests: ``python -m training.sample_photo``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from training.people.generator import People
from training.people.randomness import Dice
from training.people.wardrobe import Pattern, sample_wardrobe

DEFAULT_PATH = Path("serve_app/sample/person.png")
SEED = 15
SIZE = 960
BORDER = 48
CLOTH = (  # top, bottom, shoes; first and second colour
    ((0.78, 0.20, 0.18), (0.95, 0.93, 0.88)),
    ((0.20, 0.29, 0.45), (0.20, 0.29, 0.45)),
    ((0.93, 0.92, 0.90), (0.9, 0.9, 0.9)),
)


def sample_photo() -> Image.Image:
    """One standing person, RGBA with a transparent background, (SIZE + 2 BORDER) pixels a side."""
    generator = torch.Generator().manual_seed(SEED)
    wear = replace(
        sample_wardrobe(Dice(1, generator)),
        cloth=torch.tensor([CLOTH]),
        pattern=torch.tensor([[Pattern.STRIPES, Pattern.PLAIN, Pattern.PLAIN]]),
        frequency=torch.full((1, 3), 14.0),
        trousers=torch.full((1,), 0.03),
    )
    people = People()
    mesh, wear = people.sample(1, generator, style="relaxed", wear=wear)
    picture = people.photograph(mesh, wear, SIZE, generator, samples=3)
    alpha = picture.mask[0, 0]
    straight = picture.color[0, 0] / alpha.clamp(min=1e-6)
    rgba = F.pad(torch.cat([straight, alpha]), (BORDER,) * 4)
    pixels = (rgba.clamp(0, 1) * 255 + 0.5).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels, "RGBA")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_PATH)
    path: Path = parser.parse_args().out
    path.parent.mkdir(parents=True, exist_ok=True)
    sample_photo().save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
