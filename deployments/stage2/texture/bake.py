"""The five pictures become one texture in closed form: no optimiser, no differentiable renderer.

Each texel is looked up in every picture that sees it and takes the weighted mean (geometry.md 8:
as sharp as a thousand Adam steps on the given views, and 4 dB better on sides that no view shows).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deployments.contracts import UInt8
from deployments.errors import GenerationError
from deployments.stage2.gaussians import Gaussians
from deployments.stage2.mesh.surface import Float32, Float64, Mesh
from deployments.stage2.mesh.unwrap import Atlas
from deployments.stage2.texture.borders import confidence, without_rim
from deployments.stage2.texture.colour_field import from_gaussians, from_seen
from deployments.stage2.texture.drawing import surface_texels, view_depth
from deployments.stage2.texture.face import AGREES_BELOW, face_difference
from deployments.stage2.texture.growth import grow
from deployments.stage2.texture.projection import ColourSums, Sight, Texels, gather
from deployments.stage2.texture.registration import register
from deployments.stage2.texture.views import VIEWS, foreground

logger = logging.getLogger(__name__)

CHART_GROWTH = 8  # texels
# Weight below which a texel, seen at a grazing angle or close to a border, fades into the colour
# that it would have if nothing saw it: no seam where the pictures end.
CERTAIN = 1e-3


@dataclass(frozen=True)
class Texture:
    """A baked texture and what is known about it."""

    pixels: UInt8  # (T, T, 3) sRGB, first row on top
    seen: float  # share of texels that at least one picture colours, 0..1
    shifts: Float64  # (5, 2) column and row by which each picture was moved, in its pixels

    def at(self, uv: Float32) -> UInt8:
        """Colours at texture coordinates (N, 2), nearest texel, (N, 3)."""
        size = len(self.pixels)
        column = np.clip((uv[:, 0] * size).astype(int), 0, size - 1)
        row = np.clip(((1.0 - uv[:, 1]) * size).astype(int), 0, size - 1)
        colours: UInt8 = self.pixels[row, column]
        return colours


@torch.inference_mode()
def bake(
    mesh: Mesh,
    atlas: Atlas,
    color: UInt8,
    normal: UInt8,
    texture_size: int,
    *,
    gaussians: Gaussians | None = None,
    device: torch.device | str = "cpu",
) -> Texture:
    """Colour the mesh from five pictures.

    Args:
        mesh: the surface.
        atlas: its unwrapping.
        color: (5, H, H, 3) front, right, back, left, face, as stored (model.md 3). A face that is
            not the front's (texture/face.py) paints nothing.
        normal: (5, H, H, 3) normal pictures; they say where the subject is.
        texture_size: T, pixels a side.
        gaussians: colours for texels that no picture sees; without them the nearest seen do.
        device: where to work: compiled loops on a CPU, tensor operations elsewhere.

    Raises:
        GenerationError: code "nothing_to_bake" when no picture shows any part of the mesh.
    """
    device, size = torch.device(device), color.shape[1]
    shown = foreground(normal)
    painting = len(VIEWS) if _face_may_paint(color, shown) else len(VIEWS) - 1
    depths = [view_depth(mesh, view, size, device) for view in VIEWS[:painting]]
    pictures, masks = torch.from_numpy(color).to(device), torch.from_numpy(shown).to(device)
    shifts = register(torch.stack([depth.isfinite() for depth in depths[:4]]), masks[:4])

    texels, known = surface_texels(mesh, atlas, texture_size, device)
    sums = ColourSums.empty(len(texels.position), device)
    for number, depth in enumerate(depths):
        view, mask, shift = VIEWS[number], masks[number], shifts[number]
        gather(
            texels,
            Sight(
                view,
                without_rim(pictures[number], mask),
                confidence(view, depth, mask, shift),
                torch.where(depth.isfinite(), depth, -torch.inf),
                (float(shift[0]), float(shift[1])),
            ),
            sums,
        )
    colours = _blended(texels, sums, gaussians)
    texture = torch.zeros(texture_size, texture_size, 3, device=device)
    texture[known] = colours
    texture = grow(texture, known, CHART_GROWTH)
    seen = float((sums.weight > 0).float().mean())
    logger.info(
        "baked %d texels, %.1f %% seen, shifts %s", len(colours), 100 * seen, shifts.tolist()
    )
    pixels: UInt8 = (texture + 0.5).clamp_(0, 255).byte().cpu().numpy()
    return Texture(pixels, seen, shifts)


def _blended(texels: Texels, sums: ColourSums, gaussians: Gaussians | None) -> Tensor:
    """The colour of every texel: what was gathered, or a guess where that is next to nothing."""
    colours = sums.colour / sums.weight.clamp(min=1e-6)[:, None]
    certain = sums.weight >= CERTAIN
    doubtful = (~certain).nonzero()[:, 0]
    if len(doubtful) == len(colours):
        raise GenerationError(
            "none of the five pictures shows any part of the mesh: pictures and voxels do not "
            "belong together, or the normal pictures are blank",
            code="nothing_to_bake",
        )
    if len(doubtful):
        unseen = texels[doubtful]
        guess = (
            from_seen(unseen, texels[certain], colours[certain])
            if gaussians is None or len(gaussians) == 0
            else from_gaussians(unseen.position, gaussians)
        )
        share = (sums.weight[doubtful] / CERTAIN)[:, None]
        colours[doubtful] = torch.lerp(guess, colours[doubtful], share)
    return colours


def _face_may_paint(color: UInt8, masks: NDArray[np.bool_]) -> bool:
    difference = face_difference(color[0], color[4], masks[[0, 4]])
    if difference < AGREES_BELOW:
        return True
    logger.info("the face picture differs from the front by %.0f: not used", difference)
    return False
