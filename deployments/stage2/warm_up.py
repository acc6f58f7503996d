"""Everything that is compiled at first use, used once: no request has to wait for it."""

from __future__ import annotations

import numpy as np
import torch

from deployments.stage2.mesh.corners import CHANNELS, average_corners
from deployments.stage2.mesh.pockets import enclosed_pockets
from deployments.stage2.mesh.surface import Mesh
from deployments.stage2.mesh.topology import topology
from deployments.stage2.mesh.unwrap import unwrap
from deployments.stage2.png import encode_png
from deployments.stage2.texture.bake import bake


def warm_up(device: torch.device | str = "cpu") -> None:
    """Compile all loops (seconds the first time, then read from the cache), touch the device."""
    vertices = np.array([[0, 0, 0.4], [0.4, 0, -0.4], [-0.4, 0, -0.4], [0, 0.4, 0]], np.float32)
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]], np.int32)
    mesh = Mesh(vertices, faces)
    atlas = unwrap(mesh, 64)
    topology(mesh)
    average_corners(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, CHANNELS), 4)
    picture = np.zeros((5, 96, 96, 3), np.uint8)
    for place in {"cpu", str(device)}:
        texture = bake(mesh, atlas, picture, picture, 64, device=place)
    encode_png(texture.pixels)
    enclosed_pockets(np.zeros((6, 6, 6), bool))
