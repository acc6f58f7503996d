"""DINOv2 with registers, read out in the two ways that the method needs (model.md 5.4).

* ``condition``: the last block's tokens *before* the final norm, normalised without weights;
* ``multiview_features``: several blocks' patch tokens *after* the final norm, side by side.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deployments.checkpoints.checkpoint import Checkpoint
from deployments.checkpoints.component import Component
from deployments.contracts import UInt8
from deployments.layers.dinov2_network import Dinov2Config, Dinov2Network

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


class DinoV2:
    """Both read-outs of one network."""

    def __init__(
        self, model: Dinov2Network, *, feature_size: int, feature_layers: tuple[int, ...]
    ) -> None:
        blocks, patch = len(model.blocks), model.config.patch_size
        if max(feature_layers) >= blocks or feature_size % patch:
            raise ValueError(
                f"feature layers {feature_layers} of {blocks} blocks at {feature_size} px with "
                f"patches of {patch}: layers count from 0, the size must be a multiple of the patch"
            )
        self.model = model
        self.feature_size = feature_size
        self.feature_layers = feature_layers
        self._skipped = 1 + model.config.num_register_tokens  # class token and registers
        self._tables: dict[int, Tensor] = {}

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, *, device: torch.device | str, dtype: torch.dtype
    ) -> DinoV2:
        config = checkpoint.config(Component.DINOV2)
        model = checkpoint.load(
            Component.DINOV2, lambda: build_dinov2(config), device=device, dtype=dtype
        )
        method = checkpoint.method
        return cls(model, feature_size=method.feature_size, feature_layers=method.feature_layers)

    @torch.inference_mode()
    def condition(self, pictures: UInt8) -> Tensor:
        """uint8 (B, C, C, 3) to float32 tokens (B, 1 + registers + (C/patch)^2, D)."""
        device = next(self.model.parameters()).device
        pixels = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 255
        hidden = self._run(pixels)[len(self.model.blocks) - 1]
        return F.layer_norm(hidden.float(), hidden.shape[-1:], eps=1e-5)

    @torch.inference_mode()
    def multiview_features(self, pictures: Tensor) -> Tensor:
        """float (V, 3, H, W) in 0..1 to (V, F, F, layers x D), F = feature size / patch.

        Pictures are resized by plain bilinear interpolation, without antialias, before the
        ImageNet normalisation; layers follow each other along the channels.
        """
        size = (self.feature_size, self.feature_size)
        pixels = F.interpolate(pictures.float(), size, mode="bilinear", align_corners=False)
        hidden = self._run(pixels, self.feature_layers)
        tokens = [self.model.layernorm(hidden[k])[:, self._skipped :] for k in self.feature_layers]
        grid = self.feature_size // self.model.config.patch_size
        return torch.cat(tokens, dim=-1).reshape(len(pictures), grid, grid, -1)

    def position_table(self, grid: int) -> Tensor:
        """(1, 1 + grid^2, D): class position, then the patch positions resized to ``grid``.

        Resized in float32 by bicubic interpolation *with* antialias, which takes another cubic
        kernel than without, to a size given explicitly. Kept, since a checkpoint has two grids.
        """
        if grid not in self._tables:
            table = self.model.embeddings.position_embeddings.float()
            side = math.isqrt(table.shape[1] - 1)
            patches = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
            if grid != side:
                patches = F.interpolate(
                    patches, size=(grid, grid), mode="bicubic", align_corners=False, antialias=True
                )
            patches = patches.flatten(2).transpose(1, 2)
            self._tables[grid] = torch.cat([table[:, :1], patches], dim=1)
        return self._tables[grid]

    def _tokens(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S) to tokens (B, T, D): class, registers, patches.

        Registers have no position.
        """
        parts = self.model.embeddings
        patches = parts.patch_embeddings(pixels)  # (B, N, D)
        positions = self.position_table(math.isqrt(patches.shape[1])).to(patches.dtype)
        rows = patches.shape[0]
        return torch.cat(
            [
                (parts.cls_token + positions[:, :1]).expand(rows, -1, -1),
                parts.register_tokens.expand(rows, -1, -1),
                patches + positions[:, 1:],
            ],
            dim=1,
        )

    def _run(self, pixels: Tensor, keep: tuple[int, ...] = ()) -> dict[int, Tensor]:
        """Outputs (B, T, D) of the blocks in ``keep`` and of the last one that had to run.

        Only these are held: all hidden states of eight large pictures would take gigabytes.
        """
        parameter = next(self.model.parameters())
        mean, deviation = (pixels.new_tensor(v).view(3, 1, 1) for v in (_MEAN, _DEVIATION))
        hidden = self._tokens(((pixels - mean) / deviation).to(parameter))
        last = max(keep, default=len(self.model.blocks) - 1)
        kept = {}
        for index, block in enumerate(self.model.blocks[: last + 1]):
            hidden = block(hidden)
            if index in keep or index == last:
                kept[index] = hidden
        return kept


def build_dinov2(config: dict[str, Any]) -> Dinov2Network:
    """The network of a config.json."""
    return Dinov2Network(Dinov2Config.from_dict(config))
