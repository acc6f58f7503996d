"""Batches of people as the networks see them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from deployments.checkpoints.method import MethodConfig
from training.people.generator import People, enlarge_face
from training.people.occupancy import occupancy
from training.people.render import Mesh, Pictures
from training.people.wardrobe import Wardrobe

CONDITION_MARGIN = 1.2  # model.md 4, condition picture


def full_precision(device: torch.device) -> torch.autocast:
    """Geometry in float32, also where the training around it computes in bfloat16."""
    return torch.autocast(device.type, enabled=False)


@dataclass(frozen=True)
class Batch:
    """B people; pictures in 0..1."""

    normal: torch.Tensor  # (B, 5, 3, S, S) on white
    color: torch.Tensor  # (B, 5, 3, S, S) on white
    mask: torch.Tensor  # (B, 5, 1, S, S)
    front: torch.Tensor  # (B, 3, S, S) the photograph on white
    face: torch.Tensor  # (B, 3, S, S) its top centre third, enlarged
    condition: torch.Tensor  # (B, 3, C, C) the photograph on black, with a margin
    occupancy: torch.Tensor  # (B, G, G, G) bool
    mesh: Mesh
    wear: Wardrobe


class Subjects:
    """Draws batches in the sizes of a checkpoint."""

    def __init__(
        self,
        method: MethodConfig,
        generator: torch.Generator,
        *,
        samples: int,
        held_out: bool = False,
    ) -> None:
        self.people = People(generator.device)
        self.method = method
        self.generator = generator
        self.samples = samples
        self.held_out = held_out

    @torch.no_grad()
    def draw(self, count: int) -> Batch:
        """People with targets and with the photograph that stands for the user's picture."""
        with full_precision(self.generator.device):
            return self._draw(count)

    @torch.no_grad()
    def views(self, count: int) -> Pictures:
        """Target views alone."""
        with full_precision(self.generator.device):
            mesh, wear = self.people.sample(count, self.generator, held_out=self.held_out)
            return self.people.views(mesh, wear, self.method.picture_size, samples=self.samples)

    @torch.no_grad()
    def volumes(self, count: int) -> torch.Tensor:
        """(B, G, G, G) bool: occupancy alone."""
        with full_precision(self.generator.device):
            mesh, _ = self.people.sample(count, self.generator, held_out=self.held_out)
            return occupancy(mesh.vertices, mesh.faces, self.method.voxel_grid)

    def _draw(self, count: int) -> Batch:
        method = self.method
        mesh, wear = self.people.sample(count, self.generator, held_out=self.held_out)
        views = self.people.views(mesh, wear, method.picture_size, samples=self.samples)
        photo = self.people.photograph(
            mesh, wear, method.picture_size, self.generator, samples=self.samples
        )
        color, mask = self._photographed(photo)
        front = color + 1 - mask
        return Batch(
            normal=views.normal_map_on_white(),
            color=views.color_on_white(),
            mask=views.mask,
            front=front,
            face=enlarge_face(front),
            condition=self._condition(color),
            occupancy=occupancy(mesh.vertices, mesh.faces, method.voxel_grid),
            mesh=mesh,
            wear=wear,
        )

    def _photographed(self, photo: Pictures) -> tuple[torch.Tensor, torch.Tensor]:
        """Softness and noise of a real picture: (B, 3, S, S) premultiplied, and its mask."""
        color, mask = photo.color[:, 0], photo.mask[:, 0]
        size = color.shape[-1]
        draws = torch.rand(2, generator=self.generator, device=color.device).tolist()
        if draws[0] < 0.4:
            smaller = round(size * (0.5 + 0.5 * draws[1]))
            both = F.interpolate(torch.cat([color, mask], 1), smaller, mode="area")
            both = F.interpolate(both, size, mode="bilinear", align_corners=False)
            color, mask = both[:, :3], both[:, 3:]
        noise = torch.randn(color.shape, generator=self.generator, device=color.device)
        color = (color + 0.012 * noise * mask).clamp(min=0)
        return torch.minimum(color, mask), mask

    def _condition(self, color: torch.Tensor) -> torch.Tensor:
        size = self.method.condition_size
        inner = round(size / CONDITION_MARGIN)
        smaller = F.interpolate(
            color, (inner, inner), mode="bicubic", antialias=True, align_corners=False
        )
        before = (size - inner) // 2
        after = size - inner - before
        return F.pad(smaller.clamp(0, 1), (before, after, before, after))
