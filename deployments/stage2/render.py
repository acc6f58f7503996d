"""Pictures of a finished GLB on the CPU: what a person would see who opens it in a viewer.

Orthographic, textured, lit from the camera. Needs no GPU, no window system and no torch.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import trimesh
from numpy.typing import NDArray

from deployments.errors import InputError
from deployments.stage2.texture.rasterizer import interpolate, rasterize

SUPERSAMPLING = 2
FILL = 0.94  # share of the picture that the subject takes
AMBIENT = 0.7  # brightness of a surface seen edge on; one seen frontally has 1
BACKGROUND = 255


def render_glb(glb: bytes, azimuths_deg: Sequence[float], size: int) -> NDArray[np.uint8]:
    """Views all around a textured GLB, (number of azimuths, size, size, 3) on white.

    Args:
        glb: y up, subject facing +z.
        azimuths_deg: 0 looks at the front; at 90 the camera stands on the subject's left (+x).
        size: pixels a side.

    Raises:
        InputError: code "glb_unreadable" for anything but a GLB with one textured mesh.
    """
    vertices, faces, normals, uv, texture = _load(glb)
    center = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    vertices = vertices - center
    reach = max(np.ptp(vertices[:, 1]) / 2, float(np.hypot(vertices[:, 0], vertices[:, 2]).max()))
    pixels = size * SUPERSAMPLING
    scale = FILL * pixels / (2 * reach)
    texture = _shrunk(texture, pixels)

    pictures = np.full((len(azimuths_deg), size, size, 3), BACKGROUND, np.uint8)
    for picture, azimuth in zip(pictures, np.radians(azimuths_deg), strict=True):
        right = np.array([np.cos(azimuth), 0.0, -np.sin(azimuth)])
        toward = np.array([np.sin(azimuth), 0.0, np.cos(azimuth)])
        raster = rasterize(
            pixels / 2 + scale * (vertices @ right) - 0.5,
            pixels / 2 - scale * vertices[:, 1] - 0.5,
            -(vertices @ toward),
            faces,
            (pixels, pixels),
        )
        values = np.concatenate((uv, (normals @ toward)[:, None]), axis=1).astype(np.float32)
        found = interpolate(raster, faces, values)
        light = AMBIENT + (1.0 - AMBIENT) * found[:, 2].clip(0.0, 1.0)
        canvas = np.full((pixels, pixels, 3), float(BACKGROUND), np.float32)
        canvas[raster.covered] = _lookup(texture, found[:, :2]) * light[:, None]
        blocks = canvas.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, 3)
        picture[:] = blocks.mean(axis=(1, 3)) + 0.5
    return pictures


def _load(
    glb: bytes,
) -> tuple[
    NDArray[np.float64],
    NDArray[np.int32],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float32],
]:
    """Vertices, faces, unit normals, texture coordinates and the texture of a GLB's mesh."""
    try:
        (mesh,) = trimesh.load_scene(io.BytesIO(glb), file_type="glb").geometry.values()
        picture = mesh.visual.material.baseColorTexture.convert("RGB")
        uv = np.asarray(mesh.visual.uv, np.float64)
    except (LookupError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise InputError(
            f"this file of {len(glb)} bytes is not a GLB with one textured mesh: {error}",
            code="glb_unreadable",
        ) from error
    return (
        np.asarray(mesh.vertices, np.float64),
        np.asarray(mesh.faces, np.int32),
        np.asarray(mesh.vertex_normals, np.float64),
        uv,
        np.asarray(picture, np.float32),
    )


def _shrunk(texture: NDArray[np.float32], pixels: int) -> NDArray[np.float32]:
    """Average the texture down until its texels are about as fine as the picture's pixels."""
    while texture.shape[0] >= 4 * pixels and texture.shape[0] % 2 == 0:
        half = texture.shape[0] // 2
        texture = texture.reshape(half, 2, half, 2, 3).mean(axis=(1, 3))
    return texture


def _lookup(texture: NDArray[np.float32], uv: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bilinear lookup; v = 0 is the bottom row."""
    height, width = texture.shape[:2]
    x = np.clip(uv[:, 0] * width - 0.5, 0, width - 1.001)
    y = np.clip((1.0 - uv[:, 1]) * height - 0.5, 0, height - 1.001)
    column, row = x.astype(int), y.astype(int)
    u, v = (x - column)[:, None], (y - row)[:, None]
    upper = texture[row, column] * (1 - u) + texture[row, column + 1] * u
    lower = texture[row + 1, column] * (1 - u) + texture[row + 1, column + 1] * u
    return np.asarray(upper * (1 - v) + lower * v, np.float32)
