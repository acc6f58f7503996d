"""From decoded pictures to the five views that Stage 1 hands over (model.md 9)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from deployments.contracts import UInt8
from deployments.preprocess.framing import on_white


def finish_views(decoded: Tensor, rgba: UInt8) -> tuple[UInt8, UInt8]:
    """Decoded pictures to ``color`` and ``normal``, each uint8 (V, H, H, 3).

    ``decoded`` is (2 V, 3, H, H) in 0..1, normal maps first; ``rgba`` (H, H, 4) the prepared front
    picture, which replaces the first colour view. The face's normals are pasted into the front's;
    the colour face is not, since the front colour is the photo itself.
    """
    normal, color = (half.permute(0, 2, 3, 1).clone() for half in decoded.float().chunk(2))
    color[0] = torch.from_numpy(on_white(Image.fromarray(rgba)))
    paste_face(normal)
    return to_bytes(color), to_bytes(normal)


def paste_face(views: Tensor) -> None:
    """Put the last view, scaled to a third without antialias, where it lies in the first.

    ``views`` (V, H, H, 3), changed in place.
    """
    third = views.shape[1] // 3
    face = F.interpolate(
        views[-1:].permute(0, 3, 1, 2), (third, third), mode="bilinear", align_corners=False
    )
    views[0, :third, third : 2 * third] = face[0].permute(1, 2, 0)


def to_bytes(pictures: Tensor) -> UInt8:
    """0..1 to 8 bit, rounded to the nearest."""
    return np.asarray((pictures * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8).cpu())
