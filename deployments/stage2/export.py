"""The other files: PLY mesh with vertex colours, OBJ archive, splats for splat viewers.

All are y up with the subject facing +z, like the GLB (orientation.py).
"""

from __future__ import annotations

import io
import zipfile

import numpy as np
from numpy.typing import NDArray

from deployments.contracts import TextureFormat, UInt8
from deployments.stage2.gaussians import Gaussians
from deployments.stage2.glb import encode_texture
from deployments.stage2.mesh.surface import Mesh
from deployments.stage2.mesh.unwrap import Atlas
from deployments.stage2.orientation import rotations_to_file, to_file

SH_DEGREE_0 = 0.28209479177387814  # the constant spherical harmonic


def to_ply(mesh: Mesh, colours: UInt8) -> bytes:
    """Binary PLY with normals and vertex colours (V, 3)."""
    vertices = np.empty(
        len(mesh.vertices),
        [(axis, "<f4") for axis in ("x", "y", "z", "nx", "ny", "nz")]
        + [(channel, "u1") for channel in ("red", "green", "blue")],
    )
    values = (*to_file(mesh.vertices).T, *to_file(mesh.vertex_normals()).T, *colours.T)
    for name, value in zip(vertices.dtype.names or (), values, strict=True):
        vertices[name] = value
    faces = np.empty(len(mesh.faces), [("count", "u1"), ("corner", "<i4", 3)])
    faces["count"] = 3
    faces["corner"] = mesh.faces
    header = _ply_header(vertices) + (
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    return header.encode() + vertices.tobytes() + faces.tobytes()


def to_splats(gaussians: Gaussians) -> bytes:
    """Gaussians as the PLY that splat viewers open (layout of the 3DGS reference, degree 0).

    The file holds values before their activations: logit of the opacity, logarithm of the scale,
    spherical harmonic of the colour.
    """
    opacity = gaussians.opacity.astype(np.float64).clip(1e-6, 1 - 1e-6)
    columns = {
        **dict(zip("xyz", to_file(gaussians.xyz).T, strict=True)),
        **dict.fromkeys(("nx", "ny", "nz"), np.zeros(len(gaussians))),
        **{f"f_dc_{i}": (gaussians.color[:, i] - 0.5) / SH_DEGREE_0 for i in range(3)},
        "opacity": np.log(opacity / (1.0 - opacity)),
        **{f"scale_{i}": np.log(gaussians.scale[:, i]) for i in range(3)},
        **{f"rot_{i}": column for i, column in enumerate(rotations_to_file(gaussians.rotation).T)},
    }
    splats = np.empty(len(gaussians), [(name, "<f4") for name in columns])
    for name, column in columns.items():
        splats[name] = column
    return _ply_header(splats).encode() + b"end_header\n" + splats.tobytes()


def to_obj_zip(mesh: Mesh, atlas: Atlas, texture: UInt8, *, name: str) -> bytes:
    """An archive of ``name.obj``, ``name.mtl`` and ``name.png``."""
    obj = io.BytesIO()
    obj.write(f"mtllib {name}.mtl\no {name}\nusemtl {name}\n".encode())
    np.savetxt(obj, to_file(mesh.vertices), "v %.6f %.6f %.6f")
    np.savetxt(obj, atlas.uv, "vt %.6f %.6f")
    np.savetxt(obj, to_file(mesh.vertex_normals()), "vn %.4f %.4f %.4f")
    corner = np.stack((atlas.source[atlas.faces], atlas.faces, atlas.source[atlas.faces]), axis=2)
    np.savetxt(obj, corner.reshape(-1, 9) + 1, "f %d/%d/%d %d/%d/%d %d/%d/%d")
    material = f"newmtl {name}\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {name}.png\n"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.obj", obj.getvalue())
        archive.writestr(f"{name}.mtl", material)
        archive.writestr(zipfile.ZipInfo(f"{name}.png"), encode_texture(texture, TextureFormat.PNG))
    return stream.getvalue()


def _ply_header(vertices: NDArray[np.void]) -> str:
    kinds = {np.dtype("<f4"): "float", np.dtype("u1"): "uchar"}
    properties = "".join(
        f"property {kinds[vertices.dtype[name]]} {name}\n" for name in vertices.dtype.names or ()
    )
    return f"ply\nformat binary_little_endian 1.0\nelement vertex {len(vertices)}\n{properties}"
