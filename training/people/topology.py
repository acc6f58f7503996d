"""Faces and edges: vertex normals and smoothing over a mesh that all subjects share."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def vertex_normals(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """(B, V, 3) area-weighted unit normals."""
    a, b, c = vertices[:, faces].unbind(2)
    normal = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices)
    for corner in range(3):
        total.index_add_(1, faces[:, corner], normal)
    return F.normalize(total, dim=-1, eps=1e-12)


class Neighbours:
    """Averages over mesh edges."""

    def __init__(self, faces: torch.Tensor, vertices: int) -> None:
        edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
        self.start, self.end = edges.T
        ones = torch.ones(len(edges), device=faces.device)
        degree = torch.zeros(vertices, device=faces.device).index_add_(0, self.start, ones)
        self.degree = degree.clamp(min=1)

    def smooth(self, values: torch.Tensor, rounds: int) -> torch.Tensor:
        """(B, V) half of every value replaced by its neighbours' mean, ``rounds`` times."""
        for _ in range(rounds):
            total = torch.zeros_like(values).index_add_(1, self.start, values[:, self.end])
            values = 0.5 * values + 0.5 * total / self.degree
        return values
