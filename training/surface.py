"""The sparse autoencoder: surface latents, the mesh decoder and the Gaussian decoder, at once.

The encoder sees the true surface in each voxel; both decoders see its latents and DINOv2 features
of the true views, blurred and noisy, because at inference views are generated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deployments.checkpoints.component import Component
from deployments.layers.sparse.sites import Sites
from deployments.layers.sparse.tensor import SparseTensor
from deployments.stage2.mesh.dual_tables import CORNERS
from deployments.stage2.models.gaussian_decoder import (
    GaussianDecoder,
    inverse_sigmoid,
    inverse_softplus,
)
from deployments.stage2.models.mesh_decoder import MeshDecoder
from training.loop import fit
from training.networks import start
from training.people.light import studio_light
from training.people.materials import Surface, materials
from training.people.occupancy import SurfaceSummary, summarise_surface, voxel_numbers
from training.people.paint import paint
from training.people.signed_distance import BAND, signed_distance
from training.picture_encoders import PictureEncoders
from training.run import Run
from training.step import Losses
from training.structure_vae import draw_occupancy, kl_divergence
from training.subjects import Batch, full_precision
from training.surface_encoder import PART, SurfaceEncoder

KL = 1e-3
NEAR = 4.0  # weight of corners close to the surface
CALM = 0.02  # pull of deformations, weights and unused channels to zero
GAUSSIAN_OPACITY = 0.9
GAUSSIAN_REACH = 0.45  # standard deviation, of a voxel over the cube root of its Gaussians
BODY_VIEWS = 4


@dataclass(frozen=True)
class Ground:
    """What is true about the surfaces of B people."""

    sites: Sites
    summary: SurfaceSummary
    color: Tensor  # (B, V, 3) lit colour of the vertices
    batch: Batch


class SurfaceTraining:
    """Encoder, decoders and the frozen DINOv2."""

    def __init__(self, run: Run) -> None:
        self.run = run
        configs = run.configs
        self.grid = configs.method.voxel_grid
        self.encoders = PictureEncoders.build(run).eval().requires_grad_(False)
        mesh = configs.build(Component.MESH_DECODER, run.device)
        gaussian = configs.build(Component.GAUSSIAN_DECODER, run.device)
        assert isinstance(mesh, MeshDecoder)
        assert isinstance(gaussian, GaussianDecoder)
        self.mesh, self.gaussian = mesh, gaussian
        latent_channels = configs.arguments(Component.MESH_DECODER)["latent_channels"]
        encoder = start(SurfaceEncoder(latent_channels)).to(run.device)
        assert isinstance(encoder, SurfaceEncoder)
        self.encoder = encoder
        run.workspace.load(Component.MESH_DECODER, mesh)
        run.workspace.load(Component.GAUSSIAN_DECODER, gaussian)
        run.workspace.load_part(PART, encoder)

    @torch.no_grad()
    def ground(self, batch: Batch) -> Ground:
        mesh = batch.mesh
        with full_precision(self.run.device):
            color = vertex_colors(batch)
            summary = summarise_surface(mesh.vertices, mesh.normals, color, mesh.faces, self.grid)
        return Ground(Sites(summary.coords, batch=len(color)), summary, color, batch)

    def features(self, batch: Batch, *, clean: bool = False) -> tuple[Tensor, Tensor]:
        """Colour and normal features (B, 4, G, G, F) of the body views."""
        views = torch.stack([batch.color, batch.normal])[:, :, :BODY_VIEWS]
        if not clean:
            views = worn(views)
        color, normal = views
        return self.encoders.view_features(color), self.encoders.view_features(normal)

    def losses(self, batch: Batch) -> Losses:
        ground = self.ground(batch)
        mean, log_variance = self.encoder(ground.summary, ground.sites)
        latent = SparseTensor(ground.sites, draw_occupancy(mean, log_variance))
        color, normal = self.features(batch)
        kl = kl_divergence(mean, log_variance)
        parts = self.mesh_losses(self.mesh(latent, color, normal), batch)
        parts |= self.gaussian_losses(self.gaussian(latent, color, normal), ground)
        loss = parts["distance"] + CALM * parts["calm"] + KL * kl
        loss = loss + parts["color"] + 0.1 * parts["off_surface"] + 0.05 * parts["shape"]
        return parts | {"kl": kl, "loss": loss}

    def mesh_losses(self, out: SparseTensor, batch: Batch) -> Losses:
        """Signed distance at the eight corners of each fine voxel, in bands; rest near zero."""
        truth = self.corner_distances(out.coords, batch)
        found = out.feats[:, :8]
        weight = torch.where(truth.abs() < 0.75, NEAR, 1.0)
        wrong = (found.detach() < 0) != (truth < 0)
        return {
            "distance": ((found - truth).abs() * weight).sum() / weight.sum(),
            "calm": out.feats[:, 8:].square().mean(),
            "wrong_sign": wrong.float().mean(),
        }

    @torch.no_grad()
    def corner_distances(self, coords: Tensor, batch: Batch) -> Tensor:
        """(N, 8) true distances in -1..1 (one is BAND cells) at the corners of fine voxels."""
        fine = 4 * self.grid
        with full_precision(self.run.device):
            field = signed_distance(batch.mesh.vertices, batch.mesh.faces, fine) / BAND
        corners = torch.from_numpy(CORNERS).to(coords.device)
        x, y, z = (coords[:, None, 1:].long() + corners).unbind(-1)
        return field[coords[:, :1].long(), x, y, z]

    def gaussian_losses(self, raw: Tensor, ground: Ground) -> Losses:
        """Colours of the surface they sit on, places on it, and one sensible size and opacity."""
        config = self.gaussian.config.representation_config
        count = config.num_gaussians
        found = self.gaussian.represent(ground.sites.coords, raw)
        subject = ground.sites.coords[:, 0].long().repeat_interleave(count)
        truth = self.colors_at(found.xyz.detach() - 0.5, subject, ground)
        color = 0.28209479 * found.features_dc[:, 0] + 0.5
        target = ground.summary.offset.repeat_interleave(count, 0)
        normal = F.normalize(ground.summary.normal, dim=1).repeat_interleave(count, 0)
        centre = (ground.sites.coords[:, 1:].float() + 0.5).repeat_interleave(count, 0)
        height = ((found.xyz * self.grid - centre - target) * normal).sum(1)
        size = GAUSSIAN_REACH / self.grid / count ** (1 / 3)
        wanted_scale = inverse_softplus(size) - inverse_softplus(config.scaling_bias)
        wanted_opacity = inverse_sigmoid(GAUSSIAN_OPACITY) - inverse_sigmoid(config.opacity_bias)
        shape = (
            (found.scaling - wanted_scale).square().mean()
            + (found.opacity - wanted_opacity).square().mean()
            + found.rotation.square().mean()
        )
        return {
            "color": (color - truth).abs().mean(),
            "off_surface": height.abs().mean(),
            "shape": shape,
        }

    @torch.no_grad()
    def colors_at(self, points: Tensor, subject: Tensor, ground: Ground) -> Tensor:
        """(M, 3) surface colours near points: of a cell at twice the grid, else of the voxel."""
        mesh, count = ground.batch.mesh, ground.sites.coords.shape[0]
        fine = 2 * self.grid
        summary = summarise_surface(mesh.vertices, mesh.normals, ground.color, mesh.faces, fine)
        keys = (summary.coords.long() * summary.coords.new_tensor([fine**3, fine**2, fine, 1])).sum(
            1
        )
        wanted = subject * fine**3 + voxel_numbers(points[None], fine)[0]
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        coarse = ground.summary.color.repeat_interleave(len(points) // count, 0)
        return torch.where((keys[place] == wanted)[:, None], summary.color[place], coarse)

    def save(self) -> None:
        run = self.run
        for component, module in (
            (Component.MESH_DECODER, self.mesh),
            (Component.GAUSSIAN_DECODER, self.gaussian),
        ):
            run.workspace.save(component, module, run.configs.file(component))
        run.workspace.save_part(PART, self.encoder)
        mean, deviation = self.statistics()
        run.workspace.save_method(run.configs, latent_mean=mean, latent_std=deviation)
        self.measure()
        run.workspace.pack()

    @torch.no_grad()
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and deviation of the latents' eight channels over fresh people."""
        ground = self.ground(self.run.subjects.draw(self.run.recipe.stages["surface"].batch))
        mean, _ = self.encoder(ground.summary, ground.sites)
        deviation = mean.std(0).clamp(min=1e-3)
        return [round(v, 5) for v in mean.mean(0).tolist()], [
            round(v, 5) for v in deviation.tolist()
        ]

    @torch.no_grad()
    def measure(self) -> None:
        """Decode held-out people from their true surfaces."""
        run = self.run
        run.held_out.generator.manual_seed(run.recipe.seed + 77)
        batch = run.held_out.draw(min(2, run.recipe.sheet_subjects))
        ground = self.ground(batch)
        mean, _ = self.encoder(ground.summary, ground.sites)
        latent = SparseTensor(ground.sites, mean)
        color, normal = self.features(batch, clean=True)
        parts = self.mesh_losses(self.mesh(latent, color, normal), batch)
        parts |= self.gaussian_losses(self.gaussian(latent, color, normal), ground)
        run.journal.add("surface_held_out", 0, {k: float(v) for k, v in parts.items()})


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


def worn(pictures: Tensor) -> Tensor:
    """Pictures (..., 3, S, S) softer and noisier, like generated ones."""
    size = pictures.shape[-1]
    smaller = max(8, round(size * (0.45 + 0.55 * float(torch.rand(())))))
    flat = F.interpolate(pictures.flatten(0, -4), smaller, mode="area")
    flat = F.interpolate(flat, size, mode="bilinear", align_corners=False)
    flat = flat + 0.03 * math.sqrt(float(torch.rand(()))) * torch.randn_like(flat)
    return flat.clamp(0, 1).view(pictures.shape)


def train_surface(run: Run, minutes: float) -> None:
    """Train encoder and both decoders."""
    training = SurfaceTraining(run)
    stage = run.recipe.stages["surface"]
    fit(
        "surface",
        lambda: run.subjects.draw(stage.batch),
        training.losses,
        [training.encoder, training.mesh, training.gaussian],
        stage,
        minutes=minutes,
        journal=run.journal,
        save=training.save,
    )
