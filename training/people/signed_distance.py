"""Signed distance to people near their surface, on the corners of a fine grid.

Distance: every triangle offers its exact distance to the corners around it, the least wins. Sign:
the winding number, counted along z. Closed parts may overlap freely (a skirt over legs), since
inside means inside any of them.
"""

from __future__ import annotations

import torch

BAND = 2  # grid cells around every triangle that learn their distance
TRIANGLES = 200_000  # at a time


def signed_distance(vertices: torch.Tensor, faces: torch.Tensor, grid: int) -> torch.Tensor:
    """(B, grid + 1, grid + 1, grid + 1) over x, y, z: in cells, clamped to +-BAND, inside < 0."""
    scaled = (vertices + 0.5) * grid
    distance = _unsigned(scaled, faces, grid)
    return torch.where(_inside(scaled, faces, grid), -distance, distance)


def _unsigned(vertices: torch.Tensor, faces: torch.Tensor, grid: int) -> torch.Tensor:
    side = grid + 1
    field = torch.full((len(vertices), side**3), float(BAND), device=vertices.device)
    corners = vertices[:, faces]  # (B, F, 3, 3)
    edges = corners - corners[:, :, [0]]
    area = torch.linalg.cross(edges[:, :, 1], edges[:, :, 2]).norm(dim=-1)
    subject, face = (area > 1e-7).nonzero(as_tuple=True)
    span = torch.arange(-BAND + 1, BAND + 2, device=vertices.device)
    steps = torch.cartesian_prod(span, span, span)  # (K, 3) around the triangle's lowest cell
    for part in range(0, len(face), TRIANGLES):
        b, f = subject[part : part + TRIANGLES], face[part : part + TRIANGLES]
        triangle = corners[b, f]  # (T, 3, 3)
        cell = triangle.mean(1).floor().long()
        place = cell[:, None] + steps  # (T, K, 3)
        valid = ((place >= 0) & (place <= grid)).all(-1)
        distance = point_triangle_distance(place.float(), triangle[:, None])
        x, y, z = place.clamp(0, grid).unbind(-1)
        number = ((b[:, None] * side + x) * side + y) * side + z
        distance = torch.where(valid, distance, float(BAND)).clamp(max=BAND)
        field.view(-1).scatter_reduce_(0, number.flatten(), distance.flatten(), "amin")
    return field.view(-1, side, side, side)


def point_triangle_distance(points: torch.Tensor, triangles: torch.Tensor) -> torch.Tensor:
    """(...,) distance of points (..., 3) to triangles (..., 3, 3), broadcasting."""
    a, b, c = triangles.unbind(-2)
    normal = torch.linalg.cross(b - a, c - a)
    length = normal.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    unit = normal / length
    above = ((points - a) * unit).sum(-1, keepdim=True)
    foot = points - above * unit
    best = torch.full(foot.shape[:-1], float("inf"), device=points.device)
    inside = torch.ones_like(best, dtype=torch.bool)
    for start, end in ((a, b), (b, c), (c, a)):
        edge = end - start
        along = ((points - start) * edge).sum(-1, keepdim=True)
        along = (along / edge.square().sum(-1, keepdim=True).clamp(min=1e-12)).clamp(0, 1)
        best = torch.minimum(best, (points - start - along * edge).norm(dim=-1))
        outward = (torch.linalg.cross(edge.expand_as(foot), foot - start) * unit).sum(-1)
        inside &= outward >= 0
    return torch.where(inside, above[..., 0].abs(), best)


def _inside(vertices: torch.Tensor, faces: torch.Tensor, grid: int) -> torch.Tensor:
    """(B, grid + 1, ...) bool: winding number at least one half.

    Columns of corners run along z; each triangle that a column pierces changes the winding number
    of all corners above it. Columns are moved by a hair, so that none meets an edge exactly.
    """
    side = grid + 1
    shift = vertices.new_tensor([1.37e-4, 2.11e-4, 0.0])
    corners = (vertices - shift)[:, faces]
    x, y, z = corners.unbind(-1)  # (B, F, 3)
    area = (x[..., 1] - x[..., 0]) * (y[..., 2] - y[..., 0])
    area = area - (x[..., 2] - x[..., 0]) * (y[..., 1] - y[..., 0])
    left, right = x.amin(-1).ceil().clamp(min=0), x.amax(-1).floor().clamp(max=grid)
    front, back = y.amin(-1).ceil().clamp(min=0), y.amax(-1).floor().clamp(max=grid)
    wide, deep = (right - left + 1).long(), (back - front + 1).long()
    subject, face = ((wide > 0) & (deep > 0) & (area != 0)).nonzero(as_tuple=True)
    columns = wide[subject, face] * deep[subject, face]
    owner = torch.repeat_interleave(torch.arange(len(face), device=face.device), columns)
    place = torch.arange(len(owner), device=face.device) - (columns.cumsum(0) - columns)[owner]
    b, f = subject[owner], face[owner]
    column_x = left[b, f] + place % wide[b, f]
    column_y = front[b, f] + place // wide[b, f]
    tx, ty, tz = (t[b, f] for t in (x, y, z))
    inverse = 1 / area[b, f]
    wb = (column_x - tx[:, 0]) * (ty[:, 2] - ty[:, 0])
    wb = (wb - (tx[:, 2] - tx[:, 0]) * (column_y - ty[:, 0])) * inverse
    wc = (tx[:, 1] - tx[:, 0]) * (column_y - ty[:, 0])
    wc = (wc - (column_x - tx[:, 0]) * (ty[:, 1] - ty[:, 0])) * inverse
    hit = (wb >= 0) & (wc >= 0) & (wb + wc <= 1)
    height = tz[:, 0] + wb * (tz[:, 1] - tz[:, 0]) + wc * (tz[:, 2] - tz[:, 0])
    first = height.ceil().long().clamp(0, grid)  # the first corner above the crossing
    hit &= height <= grid
    turns = -area[b, f].sign() * hit  # going up, entering through a face that looks down
    number = ((b * side + column_x.long()) * side + column_y.long()) * side + first
    winding = torch.zeros(len(vertices) * side**3, device=vertices.device)
    winding.index_add_(0, number, turns)
    return winding.view(-1, side, side, side).cumsum(-1) > 0.5
