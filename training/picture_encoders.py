"""The CLIP-like and the DINOv2-like encoder with gradients, as the deployment reads them out."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.checkpoints.component import Component
from deployments.checkpoints.method import MethodConfig
from deployments.layers.dinov2 import DinoV2
from deployments.stage1.conditioning import with_noise_level
from training.run import Run

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class PictureEncoders(nn.Module):
    """Both encoders and the prompt rows: everything that the photograph and the text go through."""

    def __init__(self, clip: Any, dinov2: Any, prompts: Tensor, method: MethodConfig) -> None:
        super().__init__()
        self.clip, self.dinov2 = clip, dinov2
        self.prompts = nn.Parameter(prompts)
        for name, values in (("clip_mean", CLIP_MEAN), ("clip_deviation", CLIP_DEVIATION)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.read_out = DinoV2(
            dinov2, feature_size=method.feature_size, feature_layers=method.feature_layers
        )

    @classmethod
    def build(cls, run: Run) -> PictureEncoders:
        """From the tree where it has them, else from starting values."""
        clip = run.configs.build(Component.IMAGE_ENCODER, run.device)
        dinov2 = run.configs.build(Component.DINOV2, run.device)
        run.workspace.load(Component.IMAGE_ENCODER, clip)
        run.workspace.load(Component.DINOV2, dinov2)
        width = run.configs.arguments(Component.JOINT_MODEL)["cross_attention_dim"]
        prompts = run.workspace.load_prompts()
        if prompts is None:
            prompts = torch.randn(10, 77, width)
        encoders = cls(clip, dinov2, prompts.to(run.device), run.configs.method)
        dinov2.embeddings.mask_token.requires_grad_(False)  # never part of a forward pass here
        return encoders.to(run.device)

    def save(self, run: Run) -> None:
        for component, module in (
            (Component.IMAGE_ENCODER, self.clip),
            (Component.DINOV2, self.dinov2),
        ):
            run.workspace.save(component, module, run.configs.file(component))
        run.workspace.save_prompts(self.prompts)

    def picture_vectors(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S) in 0..1 -> CLIP vectors with the noise-level part (B, 2 D)."""
        size = self.clip.config.image_size
        resized = F.interpolate(
            pictures, (size, size), mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 1)
        normalised = (resized - self.clip_mean) / self.clip_deviation
        vectors = self.clip(normalised)
        return with_noise_level(vectors.float())

    def condition(self, pictures: Tensor) -> Tensor:
        """(B, 3, C, C) on black in 0..1 -> tokens (B, L, D) before the final norm, normalised."""
        # The read-out caches position tables for inference; with gradients each step needs its own.
        self.read_out._tables.clear()
        last = len(self.dinov2.blocks) - 1
        hidden = self.read_out._run(pictures)[last]
        return F.layer_norm(hidden.float(), hidden.shape[-1:], eps=1e-5)

    def view_features(self, pictures: Tensor) -> Tensor:
        """(B, V, 3, S, S) in 0..1 -> (B, V, G, G, F) without gradients (model.md 5.4)."""
        self.read_out._tables.clear()
        features = self.read_out.multiview_features(pictures.flatten(0, 1))
        return features.clone().unflatten(0, pictures.shape[:2])
