"""Occupancy to the structure latent and back; the encoder lives here, only the decoder ships."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.checkpoints.component import Component
from deployments.layers.voxels import patchify
from deployments.stage1.models.structure_decoder import ResidualBlock, StructureDecoder
from training.loop import fit
from training.run import Run
from training.step import Losses
from training.subject_ring import Rows, SubjectRing

BCE = 20.0
KL = 3e-4
PART = "structure_encoder"


class StructureEncoder(nn.Module):
    """(B, 1, N, N, N) in -1..1 -> mean and log variance (B, C, R, R, R) each."""

    def __init__(self, channels: tuple[int, ...], latent_channels: int) -> None:
        """``channels`` are the widths of the decoder, from the coarsest grid up."""
        super().__init__()
        widths = channels[::-1]
        self.input_layer = nn.Conv3d(1, widths[0], 3, padding=1)
        blocks: list[nn.Module] = [ResidualBlock(widths[0])]
        for fine, coarse in pairwise(widths):
            blocks += [_Halve(fine, coarse), ResidualBlock(coarse)]
        self.blocks = nn.Sequential(*blocks)
        self.out_layer = nn.Conv3d(widths[-1], 2 * latent_channels, 3, padding=1)

    def forward(self, occupancy: Tensor) -> tuple[Tensor, Tensor]:
        h = self.out_layer(F.silu(self.blocks(self.input_layer(occupancy))))
        mean, log_variance = h.float().chunk(2, dim=1)
        return mean, log_variance.clamp(-12, 6)


class _Halve(nn.Module):
    """Half the resolution: blocks of 2^3 voxels become channels, then a linear layer."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(8 * channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(patchify(x, 2))


def build_encoder(run: Run) -> StructureEncoder:
    """The encoder that fits the configured decoder."""
    arguments = run.configs.arguments(Component.STRUCTURE_DECODER)
    encoder = StructureEncoder(tuple(arguments["channels"]), arguments["latent_channels"])
    return encoder.to(run.device)


def draw_occupancy(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A sample of the posterior."""
    return mean + torch.randn_like(mean) * (0.5 * log_variance).exp()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean over all values, from the unit Gaussian."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """One minus the overlap of two volumes (B, N, N, N), which few occupied voxels do not drown."""
    probability = logits.float().sigmoid()
    overlap = (probability * truth).sum((1, 2, 3))
    return 1 - (2 * overlap / (probability + truth).sum((1, 2, 3))).mean()


def train_structure_vae(run: Run, minutes: float) -> None:
    """Train both halves; the decoder's first layer then expects unit-sized latents."""
    decoder = run.configs.build(Component.STRUCTURE_DECODER, run.device)
    assert isinstance(decoder, StructureDecoder)
    encoder = build_encoder(run)
    if run.workspace.load(Component.STRUCTURE_DECODER, decoder):
        run.workspace.load_part(PART, encoder)
    stage = run.recipe.stages["structure_vae"]

    ring = SubjectRing(
        stage.ring,
        lambda: {"occupied": run.subjects.volumes(stage.fresh)},
        run.subjects.generator,
        every=stage.every,
        filled=stage.filled,
    )

    def losses(rows: Rows) -> Losses:
        truth = rows["occupied"].float()
        mean, log_variance = encoder(truth[:, None] * 2 - 1)
        logits = decoder(draw_occupancy(mean, log_variance))[:, 0]
        kl = kl_divergence(mean, log_variance)
        cross_entropy = F.binary_cross_entropy_with_logits(logits.float(), truth)
        dice = dice_loss(logits, truth)
        loss = BCE * cross_entropy + dice + KL * kl
        return {"cross_entropy": cross_entropy, "dice": dice, "kl": kl, "loss": loss}

    def save() -> None:
        config = run.configs.file(Component.STRUCTURE_DECODER)
        run.workspace.save(Component.STRUCTURE_DECODER, decoder, config)
        run.workspace.save_part(PART, encoder)
        _measure(run, encoder, decoder)

    fit(
        "structure_vae", lambda: ring.draw(stage.batch), losses, [encoder, decoder], stage,
        minutes=minutes, journal=run.journal, save=save,
    )  # fmt: skip
    fold_scale(encoder, decoder, run.subjects.volumes(2 * stage.batch).float())
    save()
    run.workspace.pack()


@torch.no_grad()
def fold_scale(encoder: StructureEncoder, decoder: StructureDecoder, volumes: Tensor) -> None:
    """Move the latents' deviation by channel from the encoder's last to the decoder's first layer.

    The flow needs latents of unit size and the method has no scale for them.
    """
    mean, _ = encoder(volumes[:, None] * 2 - 1)
    deviation = mean.std(dim=(0, 2, 3, 4)).clamp(min=1e-3)
    channels = len(deviation)
    encoder.out_layer.weight[:channels] /= deviation[:, None, None, None, None]
    encoder.out_layer.bias[:channels] /= deviation
    encoder.out_layer.bias[channels:] -= 2 * deviation.log()
    decoder.input_layer.weight *= deviation[None, :, None, None, None]


@torch.no_grad()
def _measure(run: Run, encoder: StructureEncoder, decoder: StructureDecoder) -> None:
    run.held_out.generator.manual_seed(run.recipe.seed + 77)
    truth = run.held_out.volumes(run.recipe.sheet_subjects)
    mean, _ = encoder(truth[:, None].float() * 2 - 1)
    result = decoder(mean)[:, 0] > 0
    near = F.max_pool3d(truth[:, None].float(), 3, 1, 1)[:, 0] > 0
    values = {
        "iou": float((result & truth).sum() / (result | truth).sum().clamp(min=1)),
        "inside_one_voxel": float((result & near).sum() / result.sum().clamp(min=1)),
        "deviation": float(mean.std()),
    }
    run.journal.add("structure_vae_held_out", 0, values)
