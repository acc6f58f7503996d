"""A GLB that opens the same everywhere: one textured mesh, nothing left to defaults.

Written directly, because the general exporters re-encode WebP pictures, leave out buffer targets
and can not place `asset.extras`. glTF 2.0 specification; EXT_texture_webp.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.contracts import TextureFormat, UInt8
from deployments.stage2.mesh.surface import Mesh
from deployments.stage2.mesh.unwrap import Atlas
from deployments.stage2.orientation import to_file
from deployments.stage2.png import encode_png

GENERATOR = "SyncHuman Serve"
WEBP_QUALITY = 92

_ARRAY_BUFFER, _INDEX_BUFFER = 34962, 34963
_FLOAT, _UNSIGNED_INT = 5126, 5125
_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP = 9729, 9987, 33071


def to_glb(
    mesh: Mesh,
    atlas: Atlas,
    texture: UInt8,
    *,
    name: str,
    provenance: Mapping[str, Any],
    texture_format: TextureFormat = TextureFormat.PNG,
) -> bytes:
    """The mesh with its texture as one binary glTF file, y up, facing +z.

    Args:
        mesh: the surface; its normals are taken before seams duplicate vertices, so that seams do
            not show as creases.
        atlas: its unwrapping.
        texture: (T, T, 3) sRGB base colour.
        name: of mesh, node and file.
        provenance: JSON-ready; lands in ``asset.extras.provenance``.
        texture_format: PNG, or WebP through EXT_texture_webp (a quarter of the size).
    """
    normals = mesh.vertex_normals()
    normals[~normals.any(axis=1)] = (0.0, -1.0, 0.0)  # glTF wants unit normals everywhere
    uv = np.stack((atlas.uv[:, 0], 1.0 - atlas.uv[:, 1]), axis=1)  # glTF counts v downward
    position = to_file(mesh.vertices)[atlas.source]
    chunks = [
        position.astype("<f4"),
        to_file(normals)[atlas.source].astype("<f4"),
        uv.astype("<f4"),
        atlas.faces.astype("<u4"),
    ]
    picture = encode_texture(texture, texture_format)
    description, blob = _layout([chunk.tobytes() for chunk in chunks], picture)
    vertices, indices = len(atlas.source), atlas.faces.size
    webp = texture_format is TextureFormat.WEBP
    document: dict[str, Any] = {
        "asset": {
            "version": "2.0",
            "generator": GENERATOR,
            "extras": {"name": name, "provenance": dict(provenance)},
        },
        "scene": 0,
        "scenes": [{"name": name, "nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0}],
        "meshes": [
            {
                "name": name,
                "primitives": [
                    {
                        "attributes": {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 2},
                        "indices": 3,
                        "material": 0,
                        "mode": 4,
                    }
                ],
            }
        ],
        "materials": [
            {
                "name": "skin and clothes",
                "pbrMetallicRoughness": {
                    "baseColorTexture": {"index": 0, "texCoord": 0},
                    "baseColorFactor": [1.0, 1.0, 1.0, 1.0],
                    # Left out, glTF reads 1: a person of dark metal.
                    "metallicFactor": 0.0,
                    "roughnessFactor": 1.0,
                },
            }
        ],
        "textures": [
            {"sampler": 0, "extensions": {"EXT_texture_webp": {"source": 0}}}
            if webp
            else {"sampler": 0, "source": 0}
        ],
        "samplers": [
            {
                "magFilter": _LINEAR,
                "minFilter": _LINEAR_MIPMAP_LINEAR,
                "wrapS": _CLAMP,
                "wrapT": _CLAMP,
            }
        ],
        "images": [
            {"name": "base colour", "bufferView": 4, "mimeType": f"image/{texture_format.value}"}
        ],
        "accessors": [
            _accessor(0, _FLOAT, vertices, "VEC3", position),
            _accessor(1, _FLOAT, vertices, "VEC3"),
            _accessor(2, _FLOAT, vertices, "VEC2"),
            _accessor(3, _UNSIGNED_INT, indices, "SCALAR"),
        ],
        **description,
    }
    if webp:
        document["extensionsUsed"] = document["extensionsRequired"] = ["EXT_texture_webp"]
    return _container(document, blob)


def encode_texture(texture: UInt8, texture_format: TextureFormat) -> bytes:
    """The texture as a PNG or WebP file."""
    if texture_format is not TextureFormat.WEBP:
        return encode_png(texture)
    stream = io.BytesIO()
    Image.fromarray(texture).save(stream, "WEBP", quality=WEBP_QUALITY, method=4)
    return stream.getvalue()


def _layout(arrays: list[bytes], picture: bytes) -> tuple[dict[str, Any], bytes]:
    """Buffer views of three attribute arrays, the indices and the picture, and their bytes."""
    targets = [_ARRAY_BUFFER] * 3 + [_INDEX_BUFFER]
    views: list[dict[str, int]] = []
    blob = bytearray()
    for content, target in zip([*arrays, picture], [*targets, None], strict=True):
        blob += b"\0" * (-len(blob) % 4)
        view = {"buffer": 0, "byteOffset": len(blob), "byteLength": len(content)}
        views.append(view if target is None else {**view, "target": target})
        blob += content
    return {"bufferViews": views, "buffers": [{"byteLength": len(blob)}]}, bytes(blob)


def _accessor(
    view: int, component: int, count: int, kind: str, bounded: NDArray[np.float32] | None = None
) -> dict[str, Any]:
    accessor: dict[str, Any] = {
        "bufferView": view,
        "componentType": component,
        "count": count,
        "type": kind,
    }
    if bounded is not None:
        accessor["min"] = bounded.min(axis=0).tolist()
        accessor["max"] = bounded.max(axis=0).tolist()
    return accessor


def _container(document: dict[str, Any], blob: bytes) -> bytes:
    """JSON and binary chunk behind the GLB header, each padded to four bytes."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 4)
    blob += b"\0" * (-len(blob) % 4)
    total = 12 + 8 + len(text) + 8 + len(blob)
    return b"".join(
        (
            struct.pack("<4sII", b"glTF", 2, total),
            struct.pack("<I4s", len(text), b"JSON"),
            text,
            struct.pack("<I4s", len(blob), b"BIN\0"),
            blob,
        )
    )
