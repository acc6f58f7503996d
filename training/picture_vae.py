"""The picture autoencoder: colour pictures and normal maps to four-channel latents and back.

With a frozen encoder its latents stay what the joint flow was trained on; the decoder then learns
from latents that are a little off, as generated ones are.
"""

from __future__ import annotations

import math
from itertools import permutations

import torch
import torch.nn.functional as F

from deployments.checkpoints.component import Component
from training.loop import fit
from training.run import Run
from training.step import Losses
from training.subject_ring import Rows, SubjectRing

FOREGROUND = 4.0  # weight of the person over the white around it
SQUARES = 4.0
EDGES = 0.5
HUE = 1.0  # differences of R, G and B beside the channels themselves
SCALES = 3  # halvings at which edges are compared
KL = 2e-4
LOG_VARIANCES = (-30.0, 20.0)  # beyond these a latent has no noise, or nothing else
LATENT_ERROR = 0.15  # of a latent's deviation at most: what a decoder behind a flow has to bear
MEASURED = 8  # held-out subjects


def fresh_views(run: Run, count: int) -> Rows:
    """Normal maps and colours of fresh people (10 count, 3, S, S), and their masks, as bytes.

    Half of the people get their colour channels in another order: clothes hardly vary between green
    and magenta, and an autoencoder that sees no variance there does not keep what there is.
    """
    views = run.subjects.views(count)
    color = views.color_on_white()
    orders = torch.tensor(list(permutations(range(3))), device=color.device)
    drawn = torch.randint(2 * len(orders), (count,), device=color.device)
    order = orders[torch.where(drawn < len(orders), drawn, 0)]  # the first order is R, G, B
    color = color.gather(2, order[:, None, :, None, None].expand_as(color))
    pictures = torch.cat([views.normal_map_on_white(), color]).flatten(0, 1)
    mask = views.mask.repeat(2, 1, 1, 1, 1).flatten(0, 1)
    return {"pictures": (pictures * 255).round().byte(), "mask": (mask * 255).round().byte()}


def edge_difference(result: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean difference of horizontal and vertical steps at several scales."""
    total = result.new_zeros(())
    for _ in range(SCALES):
        difference = result - truth
        total = total + (difference[..., 1:] - difference[..., :-1]).abs().mean()
        total = total + (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
        result, truth = F.avg_pool2d(result, 2), F.avg_pool2d(truth, 2)
    return total


def hue_difference(difference: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Error of R - G and G - B at full size and over cells of 8 pixels, where lightness is out.

    Errors of hue are small beside those of lightness in every channel, and a few thousand steps
    end before they count (seen: 1 % of the green-magenta axis was left).
    """
    opponents = (difference[:, :2] - difference[:, 1:]) * weight
    return opponents.abs().mean() + F.avg_pool2d(opponents, 8).square().mean()


def reconstruction_losses(
    result: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Differences in -1..1 pictures, the foreground counted more."""
    weight = 1 + (FOREGROUND - 1) * mask
    weight = weight / weight.mean()
    difference = (result - truth).float()
    return {
        "absolute": (difference.abs() * weight).mean(),
        "squared": (difference.square() * weight).mean(),
        "edges": edge_difference(result.float(), truth),
        "hue": hue_difference(difference, weight),
    }


def train_picture_vae(run: Run, minutes: float) -> None:
    """Train, write the component with the scale that makes its latents unit-sized."""
    config = run.configs.file(Component.VAE)
    vae = run.configs.build(Component.VAE, run.device)
    run.workspace.load(Component.VAE, vae)
    stage = run.recipe.stages["picture_vae"]

    ring = SubjectRing(
        10 * stage.ring,
        lambda: fresh_views(run, stage.fresh),
        run.subjects.generator,
        every=stage.every,
        filled=10 * stage.filled,
    )

    if stage.frozen_encoder:
        config = run.workspace.config(Component.VAE) or config
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)

    def losses(rows: Rows) -> Losses:
        truth, mask = rows["pictures"].float() / 127.5 - 1, rows["mask"].float() / 255
        if stage.frozen_encoder:
            with torch.no_grad():
                latents = nearly(vae.encode(truth))
        else:
            mean, log_variance = vae.moments(truth)
            log_variance = log_variance.clamp(*LOG_VARIANCES)
            latents = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        parts = reconstruction_losses(vae.decode(latents), truth, mask)
        loss = parts["absolute"] + SQUARES * parts["squared"] + EDGES * parts["edges"]
        loss = loss + HUE * parts["hue"]
        if not stage.frozen_encoder:
            parts["kl"] = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
            loss = loss + KL * parts["kl"]
        return parts | {"loss": loss}

    def save() -> None:
        scale = config["scaling_factor"] if stage.frozen_encoder else latent_scale(run, vae)
        run.workspace.save(Component.VAE, vae, config | {"scaling_factor": scale})
        measure(run, vae)
        run.workspace.pack()

    fit(
        "picture_vae", lambda: ring.draw(stage.batch), losses, [vae], stage,
        minutes=minutes, journal=run.journal, save=save,
    )  # fmt: skip


def nearly(latents: torch.Tensor) -> torch.Tensor:
    """Latents (N, 4, s, s), every picture's with an error of its own strength."""
    strength = LATENT_ERROR * torch.rand(len(latents), 1, 1, 1, device=latents.device)
    return latents + strength * latents.std() * torch.randn_like(latents)


@torch.no_grad()
def latent_scale(run: Run, vae: torch.nn.Module) -> float:
    """One over the deviation of the latents of held-out people."""
    batch = run.held_out.draw(min(4, run.recipe.sheet_subjects))
    pictures = torch.cat([batch.normal, batch.color]).flatten(0, 1) * 2 - 1
    return round(1 / float(vae.encode(pictures).std()), 5)


@torch.no_grad()
def measure(run: Run, vae: torch.nn.Module) -> None:
    """Note the colour and normal PSNR inside the mask of held-out people; draw the sheet."""
    run.held_out.generator.manual_seed(run.recipe.seed + 77)
    batch = run.held_out.draw(min(MEASURED, run.recipe.sheet_subjects))
    values, rows = {}, []
    for name, truth in (("color", batch.color), ("normal", batch.normal)):
        flat = truth.flatten(0, 1)
        result = torch.cat([vae.decode(vae.encode(p * 2 - 1)) for p in flat.split(10)])
        result = (result.float() / 2 + 0.5).clamp(0, 1).view_as(truth)
        error = ((result - truth).square() * batch.mask).sum() / batch.mask.sum() / 3
        values[f"psnr_{name}"] = -10 * math.log10(float(error))
        rows += [list(truth[:2].flatten(0, 1)), list(result[:2].flatten(0, 1))]
    run.journal.add("picture_vae_held_out", 0, values)
    run.journal.sheet("picture_vae", rows)
