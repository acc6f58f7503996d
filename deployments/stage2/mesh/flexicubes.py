"""FlexiCubes on the cubes that the surface crosses, and on nothing else.

Shen et al. 2023, "Flexible Isosurface Extraction for Gradient-Based Mesh Optimization", inference
form as in model.md 15: dual vertices are beta-weighted means of alpha-weighted edge crossings, no
QEF is solved. The usual implementation allocates the whole grid; here a sorted list of cubes stands
in for it, which keeps every order, so vertices and faces equal the dense result bit for bit
(geometry.md 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from deployments.stage2.mesh.corners import (
    CornerField,
    corner_offsets,
    pack,
    rows_of,
    unpack,
    with_default,
)
from deployments.stage2.mesh.dual_tables import CORNERS, EDGES, MAX_GROUP_EDGES, dual_tables


@dataclass(frozen=True)
class SurfaceCubes:
    """The M cubes with corners on both sides of the surface, and all that contouring needs."""

    keys: torch.Tensor  # (M,) int64, ascending
    corner: torch.Tensor  # (M, 8) rows of the corner arrays below
    weights: torch.Tensor  # (M, 21) beta 12 | alpha 8 | gamma 1, raw; zero for inactive cubes
    position: torch.Tensor  # (C, 3) deformed corner positions
    sdf: torch.Tensor  # (C,)
    colour: torch.Tensor | None  # (C, 6) after the sigmoid


def surface_cubes(field: CornerField, coords: torch.Tensor, weights: torch.Tensor) -> SurfaceCubes:
    """Find the cubes with corners of both signs.

    Corners that no voxel speaks for are outside, and a mixed cube has an edge that changes sign, so
    the eight cubes around each inside corner with an outside neighbour are all candidates there
    are. They include inactive cubes around the shell, which take part with neutral weights.

    Args:
        field: values at the corners.
        coords: (N, 3) active voxels.
        weights: (N, 21) their raw weights.
    """
    R, device = field.resolution, field.keys.device
    negative = field.keys[field.sdf < 0]
    buried = torch.ones_like(negative, dtype=torch.bool)
    for step in (1, R + 1, (R + 1) ** 2):
        for neighbour in (negative - step, negative + step):
            buried &= rows_of(negative, neighbour) < len(negative)
    skin = unpack(negative[~buried], R)
    around = (skin[:, None] - torch.from_numpy(CORNERS).to(device)).flatten(0, 1)
    around = around[((around >= 0) & (around < R)).all(dim=1)]
    keys = torch.unique(pack(around, R))

    corner_keys = keys[:, None] + corner_offsets(R, device)
    listed = rows_of(field.keys, corner_keys)
    mixed = (with_default(field.sdf, 1.0)[listed] >= 0).any(dim=1)
    keys, corner_keys = keys[mixed], corner_keys[mixed]

    used, corner = torch.unique(corner_keys, return_inverse=True)
    listed = rows_of(field.keys, used)
    deform = with_default(field.deform, 0.0)[listed]
    position = unpack(used, R).float() / R - 0.5 + (1.0 - 1e-8) / (R * 2) * torch.tanh(deform)
    active, order = pack(coords, R).sort()
    return SurfaceCubes(
        keys,
        corner,
        with_default(weights.float()[order], 0.0)[rows_of(active, keys)],
        position,
        with_default(field.sdf, 1.0)[listed],
        None if field.colour is None else with_default(field.colour, 0.0)[listed].sigmoid(),
    )


def sign_cases(cubes: SurfaceCubes, resolution: int) -> torch.Tensor:
    """Table row of each cube, (M,): bit k is set where corner k is inside.

    Two cubes that are ambiguous across the face they share would tear it open; both take the row of
    the complement (the C16/C19 check of dual marching cubes).
    """
    device = cubes.keys.device
    tables = dual_tables()
    bits = torch.tensor([1 << k for k in range(8)], device=device)
    case = ((cubes.sdf[cubes.corner] < 0) * bits).sum(dim=1)
    ambiguous = torch.from_numpy(tables.ambiguous).to(device)
    asking = ambiguous[case].nonzero()[:, 0]
    face = torch.from_numpy(tables.ambiguous_face).to(device)[case[asking]]
    across = unpack(cubes.keys[asking], resolution) + face
    within = ((across >= 0) & (across < resolution)).all(dim=1)
    neighbour = rows_of(cubes.keys, pack(across, resolution))
    found = within & (neighbour < len(cubes.keys))
    flipped = asking[found][ambiguous[case[neighbour[found]]]]
    case[flipped] = 255 - case[flipped]
    return case


def contour(
    cubes: SurfaceCubes, resolution: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Dual vertices (V, 3), triangles (F, 3) int64 and, where corners have colours, (V, 6)."""
    device = cubes.keys.device
    tables = dual_tables()
    case = sign_cases(cubes, resolution)
    beta = torch.tanh(cubes.weights[:, 0:12].contiguous()) * 0.99 + 1
    alpha = torch.tanh(cubes.weights[:, 12:20].contiguous()) * 0.99 + 1
    gamma = torch.sigmoid(cubes.weights[:, 20]) * 0.99 + 0.005

    # Number the vertices: cubes that emit one come first, then those that emit two, and so on.
    emitted = torch.from_numpy(tables.group_count).to(device)[case]
    order = torch.argsort(emitted, stable=True)
    cube = order.repeat_interleave(emitted[order])  # (V,)
    first = torch.empty_like(emitted)
    first[order] = emitted[order].cumsum(0) - emitted[order]
    group = torch.arange(len(cube), device=device) - first[cube]

    edges = torch.from_numpy(tables.groups).to(device)[case[cube], group]  # (V, 7)
    ends = torch.from_numpy(EDGES).to(device)
    values = [cubes.position] if cubes.colour is None else [cubes.position, cubes.colour]
    value = torch.cat(values, dim=1)
    mean = value.new_zeros(len(cube), value.shape[1])
    total_beta = value.new_zeros(len(cube), 1)
    for place in range(MAX_GROUP_EDGES):
        vertex = (edges[:, place] >= 0).nonzero()[:, 0]
        edge, owner = edges[vertex, place], cube[vertex]
        a, b = ends[edge].unbind(1)
        row_a, row_b = cubes.corner[owner, a], cubes.corner[owner, b]
        pull_a = (cubes.sdf[row_b] * alpha[owner, b])[:, None]
        pull_b = -(cubes.sdf[row_a] * alpha[owner, a])[:, None]
        crossing = (value[row_a] * pull_a + value[row_b] * pull_b) / (pull_a + pull_b)
        weight = beta[owner, edge][:, None]
        mean[vertex] += crossing * weight
        total_beta[vertex] += weight
    mean /= total_beta

    faces = _triangles(cubes, resolution, case, first, gamma[cube])
    return mean[:, :3], faces, None if cubes.colour is None else mean[:, 3:]


def _triangles(
    cubes: SurfaceCubes,
    resolution: int,
    case: torch.Tensor,
    first: torch.Tensor,
    vertex_gamma: torch.Tensor,
) -> torch.Tensor:
    """One quad around every crossing edge that has all its four cubes, cut in two, (F, 3)."""
    device = cubes.keys.device
    group = torch.from_numpy(dual_tables().group_of_edge).to(device)[case]  # (M, 12)
    cube, edge = (group >= 0).nonzero().unbind(1)
    vertex = first[cube] + group[cube, edge]

    # Sorting by (first corner, second corner): y edges run downward, so they precede z and x ones.
    ends = torch.from_numpy(EDGES).to(device)
    step = torch.from_numpy(CORNERS[EDGES[:, 1]] - CORNERS[EDGES[:, 0]]).to(device)  # (12, 3)
    rank = (step.abs() * torch.tensor([2, 0, 1], device=device)).sum(dim=1)
    start = cubes.keys[cube] + corner_offsets(resolution, device)[ends[edge, 0]]
    key, order = (start * 3 + rank[edge]).sort(stable=True)
    _, count = torch.unique_consecutive(key, return_counts=True)
    full = (count == 4).nonzero()[:, 0]
    at = (count.cumsum(0) - count)[full]
    around = order[at[:, None] + torch.arange(4, device=device)]  # (Q, 4), in cube order

    first_corner = cubes.corner[cube[around[:, 0]], ends[edge[around[:, 0]], 0]]
    inside = cubes.sdf[first_corner] < 0
    quads = torch.cat(
        (vertex[around[~inside]][:, [0, 1, 3, 2]], vertex[around[inside]][:, [2, 3, 1, 0]])
    )
    g0, g1, g2, g3 = vertex_gamma[quads].unbind(1)
    split = torch.where(
        (g0 * g2 > g1 * g3)[:, None],
        torch.tensor([0, 1, 2, 0, 2, 3], device=device),
        torch.tensor([0, 1, 3, 3, 1, 2], device=device),
    )
    return quads.gather(1, split).reshape(-1, 3)
