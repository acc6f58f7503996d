"""From the volume to the pixels of the five stored views and of a photograph.

Volume: cube [-0.5, 0.5]^3, x to the subject's left, y to the back, z up. Views 0 to 3 are
orthographic and volume-aligned (model.md 3): the row is -z, the column +x for views 0 and 2, +y
for 1 and 3, so that 2 and 3 are stored mirrored by themselves. View 4 is the top centre third of
view 0, three times enlarged.
"""

from __future__ import annotations

import torch

NEAR_AXES = ((1, 1.0), (0, -1.0), (1, -1.0), (0, 1.0))  # (axis, sign): small is near, views 0..3


def project_views(vertices: torch.Tensor, size: int) -> torch.Tensor:
    """(B, V, 3) in the volume -> (B, 5, V, 3) column, row in pixels and depth in -1..1."""
    x, y, z = vertices.unbind(-1)
    row = (0.5 - z) * size
    columns = [(axis + 0.5) * size for axis in (x, y, x, y)]
    views = [
        torch.stack([column, row, sign * vertices[..., axis]], -1)
        for column, (axis, sign) in zip(columns, NEAR_AXES, strict=True)
    ]
    face = torch.stack([(3 * x + 0.5) * size, (1.5 - 3 * z) * size, y], -1)
    return torch.stack([*views, face], 1)


def project_photograph(vertices: torch.Tensor, distance: torch.Tensor, size: int) -> torch.Tensor:
    """(B, V, 3) -> (B, V, 3): a camera at (0, -distance, 0), framed by the subject's own box.

    ``distance`` (B,) in volume units; the longer side of the subject fills the picture, centred,
    which is what preprocessing makes of a photograph (model.md 4).
    """
    x, y, z = vertices.unbind(-1)
    scale = distance[:, None] / (distance[:, None] + y)
    flat = torch.stack([x * scale, -z * scale], -1)  # (B, V, 2)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    side = (high - low).amax(-1, keepdim=True)
    pixels = ((flat - (low + high) / 2) / side + 0.5) * size
    return torch.cat([pixels, y[..., None]], -1)
