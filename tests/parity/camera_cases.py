"""The 100 cameras of the official baking against the views that our baker projects onto.

Our texture is found in closed form from the five stored pictures, so only ``View`` and the
low-discrepancy sequence are ours; poses and projections are restated here, because the official
pixels of the probe points follow from them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from case import Case
from registry import Outputs, case
from torch import Tensor

from deployments.stage2.models.gaussian_decoder import radical_inverse
from deployments.stage2.texture.views import VIEWS

OPENCV_TO_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
MIRRORED = {"back", "left"}  # stored as mirror images of what a camera sees


@case(outputs={"gl_views", "probe_pixels_768"})
def baking_cameras(case: Case) -> Outputs:
    c = case.config
    fixed = torch.tensor([c["yaws_first5"], c["pitch_first5"]], dtype=torch.float32).T
    around, inside = sphere(c["nviews"] - len(fixed)), sphere(1000)[::20]
    extrinsics = poses(torch.cat([fixed, around]), c["radius"])
    focal = 1 / math.tan(math.radians(c["fov_deg"]) / 2)
    places = [[i / 32, radical_inverse(i, 2), radical_inverse(i, 3)] for i in range(32)]

    # The official way: pose, orthographic projection, raster with row 0 first. Ours is without a
    # camera; it has to end in the same pixels.
    projection = orthographic(0.1, 100.0)
    points = torch.nn.functional.pad(case.outputs["probe_points"], (0, 1), value=1.0)
    clip = points @ (projection @ OPENCV_TO_OPENGL @ extrinsics[: len(fixed)]).mT
    pixels = (clip[..., :2] + 1) / 2 * 768
    torch.testing.assert_close(
        probe_pixels(case.outputs["probe_points"]), pixels, atol=1e-3, rtol=0
    )
    return {
        "extrinsics": extrinsics,
        "intrinsics": torch.tensor([[focal / 2, 0, 0.5], [0, focal / 2, 0.5], [0, 0, 1]]),
        "gl_views": OPENCV_TO_OPENGL @ extrinsics,
        "ortho_projection": projection,
        "perspective_projection": perspective(focal, 0.1, 10.0),
        "gaussian_projection": forward_perspective(focal, 0.8, 1.6),
        "hole_projection": perspective(focal, 1.0, 3.0),
        "hole_views_every20": OPENCV_TO_OPENGL @ poses(inside, c["radius"]),
        "yaw_pitch_95": around,
        "yaw_pitch_hole_1000_every20": inside,
        "probe_points": case.outputs["probe_points"],
        "probe_pixels_768": pixels,
        "hammersley3_32": torch.tensor(places),
    }


def probe_pixels(points: Tensor) -> Tensor:
    """Where ``View`` puts the points, in the coordinates of the official raster (5, P, 2)."""
    pixels = []
    for view in VIEWS:
        column, row, _ = view.project(points.double().numpy(), 768)
        column, row = column + 0.5, row + 0.5  # from pixel centres to pixel corners
        if view.name in MIRRORED:
            column = 768 - column
        if view.name == "face":  # the official face lies in the middle of a canvas, at the top
            column, row = column / view.zoom + 256, row / view.zoom
        pixels.append(np.stack([column, row], axis=-1))
    return torch.from_numpy(np.stack(pixels)).float()


def sphere(count: int) -> Tensor:
    """Yaw and pitch of ``count`` directions from the Hammersley sequence (count, 2)."""
    angles = [
        (2 * math.pi * radical_inverse(i, 2), math.acos(1 - 2 * i / count) - math.pi / 2)
        for i in range(count)
    ]
    return torch.tensor(angles, dtype=torch.float32)


def poses(yaw_pitch: Tensor, radius: float) -> Tensor:
    """World to camera, OpenCV axes, looking at the origin with z up (V, 4, 4)."""
    yaw, pitch = yaw_pitch.unbind(-1)
    toward = torch.stack([yaw.sin() * pitch.cos(), yaw.cos() * pitch.cos(), pitch.sin()], dim=-1)
    forward = -toward
    # Straight up and down are decided by the rounding of cos(pitch) in float32.
    right = torch.stack([forward[:, 1], -forward[:, 0], torch.zeros_like(yaw)], dim=-1)
    right = torch.nn.functional.normalize(right, dim=-1, eps=1e-30)
    down = torch.linalg.cross(forward, right)
    pose = torch.eye(4).repeat(len(yaw), 1, 1)
    pose[:, :3, :3] = torch.stack([right, down, forward], dim=1)
    pose[:, 2, 3] = radius
    return pose


def orthographic(near: float, far: float) -> Tensor:
    """The cube [-0.5, 0.5]^2 on the whole picture, first row on top."""
    depth = far - near
    projection = torch.diag(torch.tensor([2.0, -2.0, -2 / depth, 1.0]))
    projection[2, 3] = -(far + near) / depth
    return projection


def perspective(focal: float, near: float, far: float) -> Tensor:
    """OpenGL: looking along -z, depth -1..1."""
    depth = far - near
    projection = torch.diag(torch.tensor([focal, focal, -(far + near) / depth, 0.0]))
    projection[2, 3], projection[3, 2] = -2 * far * near / depth, -1.0
    return projection


def forward_perspective(focal: float, near: float, far: float) -> Tensor:
    """The splat rasteriser's: looking along +z, depth 0..1."""
    depth = far - near
    projection = torch.diag(torch.tensor([focal, focal, far / depth, 0.0]))
    projection[2, 3], projection[3, 2] = -far * near / depth, 1.0
    return projection
