"""The picture autoencoder: AutoencoderKL of Stable Diffusion 2.1-unclip (model.md 5.2 and 9)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from deployments.checkpoints.checkpoint import Checkpoint
from deployments.checkpoints.component import Component
from deployments.contracts import UInt8
from deployments.stage1.models.picture_autoencoder import AutoencoderConfig, PictureAutoencoder


class PictureVae:
    """Pictures to latents and back, a row at a time so that memory does not grow with rows."""

    def __init__(self, model: PictureAutoencoder, *, rows_at_once: int = 1) -> None:
        self.model = model
        self.scale = model.config.scaling_factor
        self._rows = rows_at_once

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        device: torch.device | str,
        dtype: torch.dtype,
        rows_at_once: int = 1,
    ) -> PictureVae:
        config = checkpoint.config(Component.VAE)
        model = checkpoint.load(
            Component.VAE, lambda: build_vae(config), device=device, dtype=dtype
        )
        return cls(model, rows_at_once=rows_at_once)

    @torch.inference_mode()
    def encode(self, pictures: UInt8) -> Tensor:
        """uint8 (B, H, W, 3) to latents (B, 4, H/8, W/8): posterior mode times the scale."""
        weight = next(self.model.parameters())
        pixels = torch.from_numpy(pictures).to(weight.device).permute(0, 3, 1, 2)
        pixels = (pixels.float() / 255 * 2 - 1).to(weight.dtype)
        with small_workspaces():
            rows = [
                self.model.encode(part) * self.scale for part in torch.split(pixels, self._rows)
            ]
        return torch.cat(rows)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, 4, h, w) to float32 pictures (B, 3, 8h, 8w), clamped to 0..1."""
        latents = latents.to(next(self.model.parameters()).dtype) / self.scale
        with small_workspaces():
            rows = [self.model.decode(part) for part in torch.split(latents, self._rows)]
        return (torch.cat(rows).float() / 2 + 0.5).clamp(0, 1)


def small_workspaces() -> AbstractContextManager[None]:
    """Take cuDNN's first choice of algorithm: trying all of them takes gigabytes at these sizes."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, allow_tf32=torch.backends.cudnn.allow_tf32
    )
    return flags


def build_vae(config: dict[str, Any]) -> PictureAutoencoder:
    """The autoencoder of a config.json."""
    return PictureAutoencoder(AutoencoderConfig.from_dict(config))
