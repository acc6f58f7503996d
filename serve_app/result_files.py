"""A result as files, under the names of unified_api.md: the service and the command line agree."""

from __future__ import annotations

import io

from PIL import Image

from deployments.contracts import Asset, MultiviewResult, PreparedImage, UInt8

# Level 6 costs 40 ms a picture more and saves 8 % of its bytes (768 px views).
PNG_LEVEL = 2
INPUT = "input.png"  # the user's picture as prepared


def stage1_files(prepared: PreparedImage, multiview: MultiviewResult) -> dict[str, bytes]:
    """``color_0..4.png``, ``normal_0..4.png`` in the order of VIEWS, and ``input.png``."""
    files = {
        f"color_{view}.png": encode_png(picture) for view, picture in enumerate(multiview.color)
    }
    files |= {
        f"normal_{view}.png": encode_png(picture) for view, picture in enumerate(multiview.normal)
    }
    files[INPUT] = encode_png(prepared.rgba)
    return files


def stage2_files(asset: Asset) -> dict[str, bytes]:
    """``output.glb`` and ``output_mesh.ply``, and the formats that were asked for."""
    files = {"output.glb": asset.glb, "output_mesh.ply": asset.mesh_ply}
    if asset.splats_ply is not None:
        files["output_splats.ply"] = asset.splats_ply
    if asset.obj_zip is not None:
        files["output_obj.zip"] = asset.obj_zip
    return files


def encode_png(picture: UInt8) -> bytes:
    """``(H, W, 3)`` or ``(H, W, 4)`` as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()
