"""The sparse autoencoder: surface latents, the mesh decoder and the Gaussian decoder, at once.

The encoder sees the true surface in each voxel. At inference voxels, views and latents are all
generated, so both decoders learn from voxels, views and latents with imitated errors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deployments.checkpoints.component import Component
from deployments.layers.sparse.tensor import SparseTensor
from deployments.stage2.models.gaussian_decoder import (
    GaussianDecoder,
    inverse_sigmoid,
    inverse_softplus,
)
from deployments.stage2.models.mesh_decoder import MeshDecoder
from training.convolution import make_trainable
from training.imitated_errors import wrong_latents
from training.loop import fit
from training.networks import start
from training.people.occupancy import voxel_numbers
from training.picture_encoders import PictureEncoders
from training.run import Run
from training.step import Losses
from training.structure_vae import draw_occupancy, kl_divergence
from training.subject_ring import SubjectRing
from training.surface_encoder import PART, SurfaceEncoder
from training.surface_rows import (
    COLOR_CELLS,
    SurfaceBatch,
    SurfaceRows,
    collate,
    collated_sites,
    summary_of,
)

KL = 1e-3
NEAR = 4.0  # weight of corners close to the surface
CALM = 0.02  # pull of deformations, weights and unused channels to zero
GAUSSIAN_OPACITY, EMPTY_OPACITY = 0.9, 0.05  # where the surface is, and in voxels it does not touch
GAUSSIAN_REACH = 0.45  # standard deviation, of a voxel over the cube root of its Gaussians
HELD_OUT = 8  # people that are measured


class SurfaceTraining:
    """Encoder, decoders and the frozen DINOv2."""

    def __init__(self, run: Run) -> None:
        self.run = run
        configs = run.configs
        self.grid = configs.method.voxel_grid
        self.encoders = PictureEncoders.build(run).eval().requires_grad_(False)
        self.rows = SurfaceRows(run, self.encoders)
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
        for module in (mesh, encoder):
            make_trainable(module)

    def losses(self, batch: SurfaceBatch) -> Losses:
        mean, log_variance = self.encoder(batch.summary, batch.sites)
        deviation = mean.detach().std(0)
        drawn = draw_occupancy(mean, log_variance)
        latent = wrong_latents(drawn, batch.sites.coords, len(batch.colors), deviation)
        kl = kl_divergence(mean, log_variance)
        parts = self.decoder_losses(SparseTensor(batch.sites, latent), batch)
        loss = parts["distance"] + CALM * parts["calm"] + KL * kl
        loss = loss + parts["color"] + 0.1 * parts["off_surface"] + 0.05 * parts["shape"]
        return parts | {"kl": kl, "loss": loss}

    def decoder_losses(self, latent: SparseTensor, batch: SurfaceBatch) -> Losses:
        views = batch.color_features, batch.normal_features
        parts = mesh_losses(self.mesh(latent, *views).feats, batch.corners)
        return parts | self.gaussian_losses(self.gaussian(latent, *views), batch)

    def gaussian_losses(self, raw: Tensor, batch: SurfaceBatch) -> Losses:
        """Colours of the surface they sit on, places on it, and one sensible size and opacity."""
        config = self.gaussian.config.representation_config
        count, coords = config.num_gaussians, batch.sites.coords
        found = self.gaussian.represent(coords, raw)
        subject = coords[:, 0].long().repeat_interleave(count)
        truth, known = self.colors_at(found.xyz.detach() - 0.5, subject, batch)
        color = 0.28209479 * found.features_dc[:, 0] + 0.5
        real = batch.real.float().repeat_interleave(count)
        known = torch.maximum(known, real)
        target = batch.summary.offset.repeat_interleave(count, 0)
        normal = F.normalize(batch.summary.normal, dim=1).repeat_interleave(count, 0)
        centre = (coords[:, 1:].float() + 0.5).repeat_interleave(count, 0)
        height = ((found.xyz * self.grid - centre - target) * normal).sum(1)
        size = GAUSSIAN_REACH / self.grid / count ** (1 / 3)
        wanted_scale = inverse_softplus(size) - inverse_softplus(config.scaling_bias)
        filled, empty = (
            inverse_sigmoid(opacity) - inverse_sigmoid(config.opacity_bias)
            for opacity in (GAUSSIAN_OPACITY, EMPTY_OPACITY)
        )
        wanted_opacity = empty + (filled - empty) * real[:, None]
        shape = (
            (found.scaling - wanted_scale).square().mean()
            + (found.opacity - wanted_opacity).square().mean()
            + found.rotation.square().mean()
        )
        return {
            "color": ((color - truth).abs().mean(1) * known).sum() / known.sum().clamp(min=1),
            "off_surface": height.abs().mean(),
            "shape": shape,
        }

    @torch.no_grad()
    def colors_at(
        self, points: Tensor, subject: Tensor, batch: SurfaceBatch
    ) -> tuple[Tensor, Tensor]:
        """Surface colours (M, 3) near points, of a small cell or else the voxel; known ones."""
        fine = COLOR_CELLS * self.grid
        place = subject * fine**3 + voxel_numbers(points[None], fine)[0]
        cell = batch.colors.view(-1, 4)[place].float() / 255
        count = len(points) // len(batch.sites)
        coarse = batch.summary.color.repeat_interleave(count, 0)
        return torch.where(cell[:, 3:] > 0, cell[:, :3], coarse), cell[:, 3]

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
        rows = self.rows.voxels(self.run.subjects.draw(self.run.recipe.stages["surface"].fresh))
        sites, chosen = collated_sites(rows)
        mean, _ = self.encoder(summary_of(rows, sites, chosen), sites)
        deviation = mean.std(0).clamp(min=1e-3)
        return [round(v, 5) for v in mean.mean(0).tolist()], [
            round(v, 5) for v in deviation.tolist()
        ]

    @torch.no_grad()
    def measure(self) -> None:
        """Decode held-out people from the truth, and from voxels, views and latents with errors."""
        run = self.run
        run.held_out.generator.manual_seed(run.recipe.seed + 77)
        people = run.held_out.draw(min(HELD_OUT, run.recipe.sheet_subjects))
        for name, faithful in (("surface_held_out", True), ("surface_held_out_errors", False)):
            batch = collate(self.rows.encode(people, faithful=faithful))
            latent, _ = self.encoder(batch.summary, batch.sites)
            if not faithful:
                many = len(batch.colors)
                latent = wrong_latents(latent, batch.sites.coords, many, latent.std(0))
            parts = self.decoder_losses(SparseTensor(batch.sites, latent), batch)
            run.journal.add(name, 0, {k: float(v) for k, v in parts.items()})


def mesh_losses(found: Tensor, truth: Tensor) -> Losses:
    """Signed distance at the eight corners of each fine voxel, in bands; rest near zero.

    ``found`` is (N, 101), ``truth`` (N, 8) in -1..1.
    """
    distance = found[:, :8]
    weight = torch.where(truth.abs() < 0.75, NEAR, 1.0)
    wrong = (distance.detach() < 0) != (truth < 0)
    return {
        "distance": ((distance - truth).abs() * weight).sum() / weight.sum(),
        "calm": found[:, 8:].square().mean(),
        "wrong_sign": wrong.float().mean(),
    }


def train_surface(run: Run, minutes: float) -> None:
    """Train encoder and both decoders on a turning ring of people."""
    training = SurfaceTraining(run)
    stage = run.recipe.stages["surface"]
    ring = SubjectRing(
        stage.ring,
        lambda: training.rows.encode(run.subjects.draw(stage.fresh)),
        run.subjects.generator,
        every=stage.every,
        filled=stage.filled,
    )

    fit(
        "surface",
        lambda: collate(ring.draw(stage.batch)),
        training.losses,
        [training.encoder, training.mesh, training.gaussian],
        stage,
        minutes=minutes,
        journal=run.journal,
        save=training.save,
    )
