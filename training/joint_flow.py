"""The joint 2D-3D flow, together with both picture encoders and the prompt rows."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from deployments.checkpoints.component import Component
from deployments.layers.flow_schedule import flow_schedule
from deployments.stage1.models.config import JointModelConfig
from training import structure_vae
from training.compilation import compile_blocks, lay_out
from training.flow_matching import draw_times, drop, noisy
from training.half import in_half
from training.joint_network import BatchedJointModel, Conditions, Velocities
from training.loop import fit
from training.networks import start
from training.picture_encoders import PictureEncoders
from training.run import Run
from training.step import Losses, Step
from training.subject_ring import Rows, SubjectRing
from training.subjects import Batch

UNCONDITIONAL = 0.1
VIEW_WEIGHTS = (1.0, 1.6, 1.0, 1.6, 1.0)  # depth is the hard part: sides count more
STRUCTURE_WEIGHT = 1.5
ENCODED_AT_ONCE = 60  # pictures


class JointTraining:
    """The frozen autoencoders, the flow, and what a step is made of."""

    def __init__(self, run: Run) -> None:
        self.run = run
        configs, device = run.configs, run.device
        self.vae = configs.build(Component.VAE, device).eval().requires_grad_(False)
        self.structure_encoder = structure_vae.build_encoder(run).eval().requires_grad_(False)
        self.structure_decoder = configs.build(Component.STRUCTURE_DECODER, device)
        self.structure_decoder.eval().requires_grad_(False)
        for component, module in (
            (Component.VAE, self.vae),
            (Component.STRUCTURE_DECODER, self.structure_decoder),
        ):
            if not run.workspace.load(component, module):
                raise RuntimeError(f"train {component.name.lower()} first: the tree has none")
        if device.type == "cuda":  # as it serves; float32 takes several times as long
            self.vae.half()
            lay_out(self.vae)
        run.workspace.load_part(structure_vae.PART, self.structure_encoder)
        vae_config = run.workspace.config(Component.VAE)
        assert vae_config is not None
        self.scale = float(vae_config["scaling_factor"])
        config = JointModelConfig.from_dict(configs.arguments(Component.JOINT_MODEL))
        self.flow: BatchedJointModel = start(BatchedJointModel(config)).to(device)
        run.workspace.load(Component.JOINT_MODEL, self.flow)
        lay_out(self.flow)
        self.velocities = Velocities(self.flow)
        # A CPU is slower in half precision, and the tests want its exactness.
        self.precision = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.encoders = PictureEncoders.build(run)
        self.frozen_dinov2 = run.recipe.stages["joint_flow"].frozen_dinov2
        self.encoders.dinov2.requires_grad_(not self.frozen_dinov2)
        self.modules = [self.flow, self.encoders]
        self.view_weights = torch.tensor(VIEW_WEIGHTS, device=device)

    @torch.no_grad()
    def encode(self, batch: Batch) -> Rows:
        """People as the ring keeps them."""
        people = len(batch.front)
        targets = torch.stack([batch.normal, batch.color], 2).flatten(0, 2)  # (B 5 2, ...)
        shown = torch.stack([batch.front, batch.face], 1)
        mean, _ = self.structure_encoder(batch.occupancy[:, None].float() * 2 - 1)
        condition = (batch.condition * 255).byte()
        return {
            "latents": self.picture_latents(targets).unflatten(0, (people, 5, 2)).half(),
            "structure": mean.half(),
            "shown_latents": self.picture_latents(shown.flatten(0, 1)).unflatten(0, (people, 2)),
            "shown": (shown * 255).byte(),
            "condition": self.tokens(condition).half() if self.frozen_dinov2 else condition,
        }

    def tokens(self, condition: Tensor) -> Tensor:
        """DINOv2 tokens (B, L, C) of condition pictures (B, 3, S, S) uint8."""
        return self.encoders.condition(condition.float() / 255)

    def picture_latents(self, pictures: Tensor) -> Tensor:
        """(N, 3, S, S) in 0..1 -> (N, 4, s, s) scaled posterior modes."""
        parts = pictures.split(ENCODED_AT_ONCE)
        dtype = next(self.vae.parameters()).dtype
        means = [self.vae.encode((part * 2 - 1).to(dtype)) for part in parts]
        return torch.cat(means).float() * self.scale

    def conditions(self, rows: Rows, dropped: Tensor | None = None) -> Conditions:
        """Run the encoders; unconditional subjects get zeros, as the sampler has them."""
        if dropped is None:
            dropped = torch.zeros(len(rows["shown"]), dtype=torch.bool, device=rows["shown"].device)
        shown = rows["shown"].float() / 255
        vectors = self.encoders.picture_vectors(shown.flatten(0, 1)).unflatten(0, (-1, 2))
        condition = rows["condition"]
        tokens = condition.float() if self.frozen_dinov2 else self.tokens(condition)
        return Conditions(
            prompts=self.encoders.prompts,
            pictures=drop(vectors, dropped),
            latents=drop(rows["shown_latents"].float(), dropped),
            condition=drop(tokens, dropped),
        )

    def losses(self, rows: Rows) -> Losses:
        latents, structure = rows["latents"].float(), rows["structure"].float()
        count, device = len(latents), latents.device
        times = draw_times(count, device)
        dropped = torch.rand(count, device=device) < UNCONDITIONAL
        x, velocity = noisy(latents, torch.randn_like(latents), times)
        s, structure_velocity = noisy(structure, torch.randn_like(structure), times)
        conditions = self.conditions(rows, dropped)
        dtype = self.precision
        found, found_structure = in_half(
            self.velocities, dtype, x.to(dtype), s.to(dtype), times, conditions.to(dtype)
        )
        by_view = (found.float() - velocity).square().mean((0, 2, 3, 4, 5))  # (V,)
        pictures = (by_view * self.view_weights).sum() / sum(VIEW_WEIGHTS)
        of_structure = (found_structure.float() - structure_velocity).square().mean()
        return {
            "front": by_view[0],
            "sides": by_view[1::2].mean(),
            "structure": of_structure,
            "loss": pictures + STRUCTURE_WEIGHT * of_structure,
        }

    @torch.no_grad()
    def sample(self, rows: Rows, steps: int) -> tuple[Tensor, Tensor]:
        """Pictures (B, 5, 2, 3, S, S) in 0..1 and occupancy (B, N, N, N) at guidance 1."""
        generator = torch.Generator(self.run.device).manual_seed(7)
        x, s = (
            torch.randn(rows[name].shape, generator=generator, device=self.run.device)
            for name in ("latents", "structure")
        )
        conditions = self.conditions(rows)
        schedule = flow_schedule(steps, self.run.configs.method.rescale_t)
        # What was compiled is of the shapes of a training step.
        with torch.compiler.set_stance("force_eager"):
            for time, following in pairwise(schedule):
                times = torch.full((len(x),), time, device=x.device)
                v, structure_velocity = self.flow.velocities(x, s, times, conditions)
                x = x - (time - following) * v.float()
                s = s - (time - following) * structure_velocity.float()
        dtype = next(self.vae.parameters()).dtype
        parts = (x.flatten(0, 2) / self.scale).to(dtype).split(ENCODED_AT_ONCE)
        pictures = torch.cat([self.vae.decode(part) for part in parts]).float()
        pictures = (pictures / 2 + 0.5).clamp(0, 1).unflatten(0, x.shape[:3])
        return pictures, self.structure_decoder(s)[:, 0] > 0

    def compile(self, rows: Rows) -> None:
        """Compile the flow's blocks for batches of the shapes of ``rows``, if that is possible."""
        parameters = [p for m in self.modules for p in m.parameters() if p.requires_grad]
        compile_blocks(self.flow, lambda: Step(self.losses, parameters)(rows))

    def save(self) -> None:
        run = self.run
        config = run.configs.file(Component.JOINT_MODEL)
        run.workspace.save(Component.JOINT_MODEL, self.flow, config)
        self.encoders.save(run)
        run.workspace.save_method(run.configs)
        self.measure()
        run.workspace.pack()

    @torch.no_grad()
    def measure(self) -> None:
        """Sample held-out people; note how they agree with the truth, draw the sheet."""
        run = self.run
        run.held_out.generator.manual_seed(run.recipe.seed + 77)
        batch = run.held_out.draw(2 * run.recipe.sheet_subjects)
        pictures, voxels = self.sample(self.encode(batch), run.recipe.sampler_steps)
        normal, color = pictures.unbind(2)
        truth_mask = (batch.normal < 230 / 255).any(2)
        found_mask = (normal < 230 / 255).any(2)
        both = truth_mask & found_mask
        overlap = (both.sum((2, 3)) / (truth_mask | found_mask).sum((2, 3)).clamp(min=1)).mean(0)
        error = ((color - batch.color).square().sum(2) * truth_mask).sum((0, 2, 3))
        psnr = -10 * (error / truth_mask.sum((0, 2, 3)) / 3).log10()
        cosine = F.cosine_similarity(normal * 2 - 1, batch.normal * 2 - 1, dim=2)
        angle = (cosine.clamp(-1, 1).acos() * both).sum((0, 2, 3)) / both.sum((0, 2, 3)).clamp(
            min=1
        )
        union = (voxels | batch.occupancy).sum().clamp(min=1)
        values = {"structure_iou": float((voxels & batch.occupancy).sum() / union)}
        for view, name in enumerate(("front", "right", "back", "left", "face")):
            values[f"iou_{name}"] = float(overlap[view])
            values[f"psnr_{name}"] = float(psnr[view])
            values[f"degrees_{name}"] = math.degrees(float(angle[view]))
        run.journal.add("joint_flow_held_out", 0, values)
        rows = []
        for person in range(run.recipe.sheet_subjects):
            rows.append([batch.front[person], *color[person], *normal[person]])
            rows.append([batch.front[person], *batch.color[person], *batch.normal[person]])
        run.journal.sheet("joint_flow", rows)


def train_joint_flow(run: Run, minutes: float) -> None:
    """Train flow, encoders and prompts together on a turning ring of people."""
    training = JointTraining(run)
    stage = run.recipe.stages["joint_flow"]
    ring = SubjectRing(
        stage.ring,
        lambda: training.encode(run.subjects.draw(stage.fresh)),
        run.subjects.generator,
        every=stage.every,
        filled=stage.filled,
    )
    began = time.monotonic()
    if stage.compiled:
        training.compile(ring.draw(stage.batch))
    fit(
        "joint_flow",
        lambda: ring.draw(stage.batch),
        training.losses,
        training.modules,
        stage,
        minutes=minutes - (time.monotonic() - began) / 60,
        journal=run.journal,
        save=training.save,
    )
