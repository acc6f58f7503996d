"""The flow that makes up surface latents on given voxels from the photograph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deployments.checkpoints.component import Component
from deployments.checkpoints.method import MethodConfig
from deployments.layers.sparse.sites import Sites
from deployments.layers.sparse.tensor import SparseTensor
from deployments.stage2.models.latent_flow import LatentFlow
from training.convolution import make_trainable
from training.flow_matching import draw_times, drop
from training.joint_network import MODEL_TIME
from training.loop import fit
from training.people.occupancy import SurfaceSummary
from training.run import Run
from training.step import Losses
from training.subject_ring import Rows, SubjectRing
from training.surface import SurfaceTraining
from training.surface_rows import collated_sites, summary_of

UNCONDITIONAL = 0.1
HELD_OUT = 24  # people that are measured


@dataclass(frozen=True)
class VoxelBatch:
    """B people with N voxels together."""

    sites: Sites
    summary: SurfaceSummary  # the surface in every voxel
    tokens: Tensor  # (B, L, D) the condition

    @classmethod
    def of(cls, rows: Rows) -> VoxelBatch:
        """From rows of the ring."""
        sites, chosen = collated_sites(rows)
        return cls(sites, summary_of(rows, sites, chosen), rows["tokens"].float())


class LatentFlowTraining:
    """The flow under training; encoder and DINOv2 are frozen."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.surface = SurfaceTraining(run)
        self.surface.encoder.eval().requires_grad_(False)
        flow = run.configs.build(Component.LATENT_FLOW, run.device)
        assert isinstance(flow, LatentFlow)
        self.flow = flow
        run.workspace.load(Component.LATENT_FLOW, flow)
        make_trainable(flow)
        method = MethodConfig.from_tree(run.workspace.tree)
        self.mean = torch.tensor(method.latent_mean, device=run.device)
        self.deviation = torch.tensor(method.latent_std, device=run.device)

    def losses(self, batch: VoxelBatch) -> Losses:
        sites, tokens = batch.sites, batch.tokens
        with torch.no_grad():
            latent, _ = self.surface.encoder(batch.summary, sites)
            latent = (latent - self.mean) / self.deviation
        people, device = len(tokens), latent.device
        dropped = torch.rand(people, device=device) < UNCONDITIONAL
        times = draw_times(people, device)
        noise = torch.randn_like(latent)
        t = times[sites.coords[:, 0].long(), None]
        noisy = SparseTensor(sites, (1 - t) * latent + t * noise)
        keys = self.flow.context_keys(drop(tokens, dropped))
        found = self.flow(noisy, times * MODEL_TIME, keys)
        return {"loss": (found - (noise - latent)).square().mean()}

    def save(self) -> None:
        run = self.run
        run.workspace.save(
            Component.LATENT_FLOW, self.flow, run.configs.file(Component.LATENT_FLOW)
        )
        run.held_out.generator.manual_seed(run.recipe.seed + 77)
        with torch.no_grad():
            rows = self.surface.rows.voxels(run.held_out.draw(HELD_OUT), faithful=True)
            loss: Tensor = self.losses(VoxelBatch.of(rows))["loss"]
        run.journal.add("latent_flow_held_out", 0, {"loss": float(loss)})
        run.workspace.pack()


def train_latent_flow(run: Run, minutes: float) -> None:
    """Train the flow on latents of fresh people."""
    training = LatentFlowTraining(run)
    stage = run.recipe.stages["latent_flow"]
    ring = SubjectRing(
        stage.ring,
        lambda: training.surface.rows.voxels(run.subjects.draw(stage.fresh)),
        run.subjects.generator,
        every=stage.every,
        filled=stage.filled,
    )
    fit(
        "latent_flow",
        lambda: VoxelBatch.of(ring.draw(stage.batch)),
        training.losses,
        [training.flow],
        stage,
        minutes=minutes,
        journal=run.journal,
        save=training.save,
    )
