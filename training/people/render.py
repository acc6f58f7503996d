"""Pictures of people: rasterise, then paint and light every foreground pixel, then average down."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from training.people.light import Light
from training.people.materials import Surface, materials
from training.people.paint import paint
from training.people.rasterize import barycentric, rasterize
from training.people.wardrobe import Wardrobe


@dataclass(frozen=True)
class Mesh:
    """Posed people with one set of faces."""

    vertices: torch.Tensor  # (B, V, 3) in the volume
    normals: torch.Tensor  # (B, V, 3) unit
    attributes: torch.Tensor  # (B, V, 8) materials.Surface
    faces: torch.Tensor  # (F, 3)


@dataclass(frozen=True)
class Pictures:
    """(B, N, ., S, S) of N projections; premultiplied by the mask, background 0."""

    color: torch.Tensor  # 3 channels, 0..1
    normal: torch.Tensor  # 3 channels, world frame, -1..1
    mask: torch.Tensor  # 1 channel, coverage 0..1

    def color_on_white(self) -> torch.Tensor:
        return self.color + 1 - self.mask

    def normal_map_on_white(self) -> torch.Tensor:
        """R = nx, G = nz, B = -ny, value (n + 1) / 2 (geometry.md 2)."""
        x, y, z = self.normal.unbind(2)
        stored = torch.stack([x, z, -y], 2)
        return (stored + self.mask) / 2 + 1 - self.mask


def render(
    mesh: Mesh,
    points: torch.Tensor,
    wear: Wardrobe,
    lights: list[Light],
    size: int,
    *,
    samples: int = 2,
    kernel: bool | None = None,
) -> Pictures:
    """Draw N projections of every subject.

    Args:
        mesh: B people.
        points: (B, N, V, 3) as from ``project_views`` at ``size * samples`` pixels.
        wear: what the B people wear.
        lights: one light a projection, N of them.
        size: pixels a side.
        samples: supersamples a side; 2 means four a pixel.
        kernel: see ``rasterize``.
    """
    subjects, projections = points.shape[:2]
    fine = size * samples
    flat_points = points.flatten(0, 1)
    face = rasterize(flat_points, mesh.faces, fine, kernel=kernel).flatten()  # (B N fine fine)
    seen = (face >= 0).nonzero()[:, 0]
    picture = seen // (fine * fine)
    subject, projection = picture // projections, picture % projections
    row = (seen // fine) % fine + 0.5
    column = seen % fine + 0.5

    corners = mesh.faces[face[seen]]  # (P, 3) vertex numbers
    weights = barycentric(flat_points[picture[:, None], corners, :2], column, row)[..., None]

    def interpolate(values: torch.Tensor) -> torch.Tensor:
        return (values[subject[:, None], corners] * weights).sum(1)

    normal = F.normalize(interpolate(mesh.normals), dim=-1)
    point = Surface.unpack(interpolate(mesh.attributes))
    worn = wear.at(subject)
    albedo = paint(point, materials(point, worn), worn)
    stacked = Light(
        *(torch.stack([getattr(light, name) for light in lights], 1).flatten(0, 1)
          for name in ("direction", "ambient", "colour"))
    )  # fmt: skip
    color = (albedo * stacked.shade(normal, subject * projections + projection)).clamp(0, 1)

    canvas = torch.zeros(subjects * projections * fine * fine, 7, device=points.device)
    canvas[seen] = torch.cat([color, normal, torch.ones_like(normal[:, :1])], 1)
    canvas = canvas.view(-1, fine, fine, 7).permute(0, 3, 1, 2)
    canvas = F.avg_pool2d(canvas, samples) if samples > 1 else canvas
    return Pictures(*canvas.unflatten(0, (subjects, projections)).split((3, 3, 1), 2))
