"""People as the surface networks see them, kept in a ring as tensors of one size.

Drawing people, their signed distances and the features of their views costs far more than a step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deployments.checkpoints.component import Component
from deployments.layers.sparse.sites import Sites
from deployments.stage1.models.picture_autoencoder import PictureAutoencoder
from deployments.stage2.mesh.dual_tables import CORNERS
from training.imitated_errors import turned_sides, worn, wrong_voxels
from training.people.light import studio_light
from training.people.materials import Surface, materials
from training.people.occupancy import SurfaceSummary, summarise_surface
from training.people.paint import paint
from training.people.signed_distance import BAND, signed_distance
from training.picture_encoders import PictureEncoders
from training.run import Run
from training.subject_ring import Rows
from training.subjects import Batch, full_precision

BODY_VIEWS = 4
CAPACITY = 1.75  # voxels a person at most, in squares of the grid; people have 0.5 to 1.7
FINE = 64  # voxels of the mesh grid in one of the latents' grid
COLOR_CELLS = 2  # a side, in one voxel, that have a colour of their own
CHUNK = 12  # people whose views are read at once, with one degree of wear
LATENT_NOISE = 0.4  # of the autoencoder's latents, at most, where views go through it


@dataclass(frozen=True)
class SurfaceBatch:
    """B people with N voxels together; rows of a person follow each other."""

    sites: Sites
    summary: SurfaceSummary  # of the true surface; zeros where there is none
    real: Tensor  # (N,) bool: the surface touches this voxel
    corners: Tensor  # (N * 64, 8) signed distance in -1..1 at the corners of fine voxels
    colors: Tensor  # (B, G2, G2, G2, 4) uint8 colour of cells at twice the grid; 4th: known
    color_features: Tensor  # (B, 4, G, G, F)
    normal_features: Tensor


class SurfaceRows:
    """Turns drawn people into rows of a ring, and rows into a batch."""

    def __init__(self, run: Run, encoders: PictureEncoders) -> None:
        self.run, self.encoders = run, encoders
        self.grid = run.configs.method.voxel_grid
        self.capacity = round(CAPACITY * self.grid**2)
        self.vae = load_vae(run)

    @torch.no_grad()
    def voxels(self, batch: Batch, *, faithful: bool = False) -> Rows:
        """What the latent flow needs: voxels with the surface in each, and the condition."""
        with torch.autocast(self.run.device.type, torch.bfloat16, enabled=batch.color.is_cuda):
            tokens = self.encoders.condition(batch.condition).half()
        with full_precision(self.run.device):
            mesh, grid = batch.mesh, self.grid
            colors = vertex_colors(batch)
            summary = summarise_surface(mesh.vertices, mesh.normals, colors, mesh.faces, grid)
        people = len(tokens)
        person, x, y, z = summary.coords.long().unbind(1)
        surface = torch.zeros(people, grid, grid, grid, 10, device=tokens.device)
        values = [
            summary.offset,
            summary.normal,
            summary.color,
            torch.ones_like(summary.color[:, :1]),
        ]
        surface[person, x, y, z] = torch.cat(values, 1)
        occupied = surface[..., 9] > 0
        taken = occupied if faithful else wrong_voxels(occupied)
        coords = taken.nonzero()
        count = taken.flatten(1).sum(1)
        place = (
            torch.arange(len(coords), device=coords.device)
            - (count.cumsum(0) - count)[coords[:, 0]]
        )
        fits = place < self.capacity
        coords, place = coords[fits], place[fits]
        voxel = torch.zeros(people, self.capacity, 3, dtype=torch.uint8, device=tokens.device)
        inside = torch.zeros(people, self.capacity, 10, dtype=torch.half, device=tokens.device)
        voxel[coords[:, 0], place] = coords[:, 1:].byte()
        inside[coords[:, 0], place] = surface[tuple(coords.T)].half()
        return {
            "voxels": voxel,
            "count": count.clamp(max=self.capacity),
            "surface": inside,
            "tokens": tokens,
        }

    @torch.no_grad()
    def encode(self, batch: Batch, *, faithful: bool = False) -> Rows:
        """Everything that the decoders need; ``faithful`` people have no imitated errors."""
        rows = self.voxels(batch, faithful=faithful)
        color, normal = self.features(batch, faithful=faithful)
        with full_precision(self.run.device):
            corners = self._corners(rows, batch)
            colors = self._colors(batch)
        return rows | {
            "corners": corners, "colors": colors,
            "color_features": color, "normal_features": normal,
        }  # fmt: skip

    def features(self, batch: Batch, *, faithful: bool = False) -> tuple[Tensor, Tensor]:
        """Colour and normal features (B, 4, G, G, F) float16 of the body views."""
        views = torch.stack([batch.color, batch.normal], 1)[:, :, :BODY_VIEWS]
        parts = []
        with torch.autocast(self.run.device.type, torch.bfloat16, enabled=views.is_cuda):
            for number, part in enumerate(views.split(CHUNK)):
                if not faithful:
                    part = turned_sides(part)
                    part = self._generated(part) if number % 2 else worn(part)
                flat = self.encoders.view_features(part.flatten(0, 1))
                parts.append(flat.unflatten(0, part.shape[:2]).half())
        color, normal = torch.cat(parts).unbind(1)
        return color, normal

    def _generated(self, pictures: Tensor) -> Tensor:
        """Through the picture autoencoder, with latents a little off."""
        if self.vae is None:
            return worn(pictures)
        latents = self.vae.encode(pictures.flatten(0, -4) * 2 - 1)
        off = LATENT_NOISE * float(torch.rand(())) / self.vae.config.scaling_factor
        found = self.vae.decode(latents + off * torch.randn_like(latents))
        return (found.float() / 2 + 0.5).clamp(0, 1).view(pictures.shape)

    def _corners(self, rows: Rows, batch: Batch) -> Tensor:
        """(B, capacity, 64, 8) int8: signed distances of 1/127 BAND, as the decoder orders them."""
        sites, chosen = collated_sites(rows)
        field = signed_distance(batch.mesh.vertices, batch.mesh.faces, 4 * self.grid)
        small = (field * (127 / BAND)).round().to(torch.int8)
        coords = sites.subdivided.subdivided.coords
        steps = torch.from_numpy(CORNERS).to(coords.device)
        x, y, z = (coords[:, None, 1:].long() + steps).unbind(-1)
        corners = small.new_zeros(*rows["voxels"].shape[:2], FINE, 8)
        corners[chosen] = small[coords[:, :1].long(), x, y, z].view(-1, FINE, 8)
        return corners

    def _colors(self, batch: Batch) -> Tensor:
        mesh, fine = batch.mesh, COLOR_CELLS * self.grid
        colors = vertex_colors(batch)
        summary = summarise_surface(mesh.vertices, mesh.normals, colors, mesh.faces, fine)
        cells = torch.zeros(
            len(colors), fine, fine, fine, 4, dtype=torch.uint8, device=colors.device
        )
        known = torch.ones_like(summary.color[:, :1])
        values = (torch.cat([summary.color, known], 1) * 255).round().byte()
        cells[tuple(summary.coords.long().T)] = values
        return cells


def collated_sites(rows: Rows) -> tuple[Sites, tuple[Tensor, Tensor]]:
    """The voxels of all rows one after another, and where they lie in (B, capacity)."""
    people, capacity = rows["voxels"].shape[:2]
    exists = torch.arange(capacity, device=rows["count"].device) < rows["count"][:, None]
    person, place = exists.nonzero(as_tuple=True)
    coords = torch.cat([person[:, None], rows["voxels"][person, place]], 1).int()
    return Sites(coords, batch=people), (person, place)


def summary_of(rows: Rows, sites: Sites, chosen: tuple[Tensor, Tensor]) -> SurfaceSummary:
    """The surface in every voxel of ``collated_sites``."""
    values = rows["surface"][chosen].float()
    return SurfaceSummary(sites.coords, *values[:, :9].split(3, 1))


def collate(rows: Rows) -> SurfaceBatch:
    """Rows of a ring as the networks take them."""
    sites, chosen = collated_sites(rows)
    return SurfaceBatch(
        sites,
        summary_of(rows, sites, chosen),
        rows["surface"][chosen][:, 9] > 0,
        rows["corners"][chosen].float().flatten(0, 1) / 127,
        rows["colors"],
        rows["color_features"].float(),
        rows["normal_features"].float(),
    )


@torch.no_grad()
def vertex_colors(batch: Batch) -> Tensor:
    """(B, V, 3) colours of the vertices under the studio light of the targets."""
    mesh = batch.mesh
    people, vertices = mesh.vertices.shape[:2]
    subject = torch.arange(people, device=mesh.vertices.device).repeat_interleave(vertices)
    point, worn_by = Surface.unpack(mesh.attributes.flatten(0, 1)), batch.wear.at(subject)
    albedo = paint(point, materials(point, worn_by), worn_by)
    light = studio_light(people, mesh.vertices.device)
    lit = albedo * light.shade(mesh.normals.flatten(0, 1), subject)
    return lit.clamp(0, 1).view(people, vertices, 3)


def load_vae(run: Run) -> PictureAutoencoder | None:
    """The picture autoencoder, if the tree has one."""
    config = run.workspace.config(Component.VAE)
    if config is None:
        return None
    vae = run.configs.build(Component.VAE, run.device)
    assert isinstance(vae, PictureAutoencoder)
    if not run.workspace.load(Component.VAE, vae):
        return None
    vae.config = replace(vae.config, scaling_factor=float(config["scaling_factor"]))
    return vae.eval().requires_grad_(False)
