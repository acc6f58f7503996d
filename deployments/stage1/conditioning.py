"""What Stage 1 knows about the photo: CLIP vector, picture latents, DINOv2 tokens, prompts.

Source: model.md 4 (step 6 and 7) and 5. All of it is computed once a request; the sampler arranges
it for guidance, where unconditional rows are zero (the noise-level part of the CLIP vector too).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deployments.checkpoints.checkpoint import Checkpoint
from deployments.checkpoints.component import Component
from deployments.contracts import PreparedImage, UInt8
from deployments.layers.dinov2 import DinoV2
from deployments.stage1.models.clip_vision import ClipVision, ClipVisionConfig
from deployments.stage1.models.config import JointModelConfig
from deployments.stage1.models.joint_model import Conditioning
from deployments.stage1.picture_vae import PictureVae

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
# Which of (front, face) each of the ten rows shows: four front views and the face, by domain.
_ROWS = (0, 0, 0, 0, 1, 0, 0, 0, 0, 1)


class ClipEncoder:
    """The CLIP vision tower with projection; embeddings are used as they come (model.md 5.1)."""

    def __init__(self, model: ClipVision) -> None:
        self.model = model
        self.size = model.config.image_size

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, *, device: torch.device | str, dtype: torch.dtype
    ) -> ClipEncoder:
        config = checkpoint.config(Component.IMAGE_ENCODER)
        model = checkpoint.load(
            Component.IMAGE_ENCODER, lambda: build_clip(config), device=device, dtype=dtype
        )
        return cls(model)

    @torch.inference_mode()
    def embed(self, pictures: UInt8) -> Tensor:
        """uint8 (B, H, H, 3) on white to (B, D), neither normalised nor noised."""
        pixels = normalise_for_clip(torch.from_numpy(clip_pictures(pictures, self.size)))
        embeddings: Tensor = self.model(pixels.to(next(self.model.parameters())))
        return embeddings


class Stage1Encoders:
    """The three picture encoders of Stage 1 and the prompts, on one device."""

    def __init__(self, clip: ClipEncoder, vae: PictureVae, dinov2: DinoV2, prompts: Tensor) -> None:
        self.clip = clip
        self.vae = vae
        self.dinov2 = dinov2
        self.prompts = prompts  # (10, 77, E)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        device: torch.device | str,
        dtype: torch.dtype,
        ready: Callable[[str], None] = lambda part: None,
    ) -> Stage1Encoders:
        """Load them; ``ready`` is told the name of every part that is there."""
        clip = ClipEncoder.from_checkpoint(checkpoint, device=device, dtype=dtype)
        ready("clip")
        vae = PictureVae.from_checkpoint(checkpoint, device=device, dtype=dtype)
        ready("picture autoencoder")
        dinov2 = DinoV2.from_checkpoint(checkpoint, device=device, dtype=dtype)
        ready("dinov2")
        return cls(clip, vae, dinov2, checkpoint.prompt_embeddings().to(device, dtype))

    def __call__(self, prepared: PreparedImage) -> Conditioning:
        """Encode one photo; the ten rows show two different pictures, so two are encoded."""
        pictures = np.stack([prepared.front, prepared.face])  # (2, H, H, 3)
        rows = list(_ROWS)
        return Conditioning(
            pictures=with_noise_level(self.clip.embed(pictures))[rows],
            latents=self.vae.encode(pictures)[rows],
            prompts=self.prompts,
            condition=self.dinov2.condition(prepared.condition[None]),
        )


def blank_conditioning(checkpoint: Checkpoint) -> Conditioning:
    """Zeros in the shapes that ``Stage1Encoders`` of this checkpoint gives."""
    joint = JointModelConfig.from_dict(checkpoint.config(Component.JOINT_MODEL))
    dinov2 = checkpoint.config(Component.DINOV2)
    patches = (checkpoint.method.condition_size // dinov2["patch_size"]) ** 2
    tokens = 1 + dinov2["num_register_tokens"] + patches
    pictures, size = 2 * joint.num_views, joint.sample_size
    return Conditioning(
        prompts=torch.zeros_like(checkpoint.prompt_embeddings()),
        pictures=torch.zeros(pictures, joint.projection_class_embeddings_input_dim),
        latents=torch.zeros(pictures, joint.out_channels, size, size),
        condition=torch.zeros(1, tokens, joint.cond_channels),
    )


def clip_pictures(pictures: UInt8, size: int) -> UInt8:
    """uint8 (B, H, H, 3) to (B, size, size, 3) with Pillow's bicubic filter.

    Square pictures need no centre crop. A resize of tensors would differ by up to two 8-bit steps.
    """
    resized = [
        Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC)
        for picture in pictures
    ]
    return np.stack([np.asarray(picture) for picture in resized])


def normalise_for_clip(pictures: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) with CLIP's mean and deviation."""
    mean, deviation = torch.tensor(_CLIP_MEAN), torch.tensor(_CLIP_DEVIATION)
    return ((pictures.float() / 255 - mean) / deviation).permute(0, 3, 1, 2)


def with_noise_level(embeddings: Tensor, level: float = 0.0) -> Tensor:
    """(B, D) to (B, 2 D): the sinusoid of the noise level follows, cosines first.

    At the only level in use, 0, these are D/2 ones and D/2 zeros.
    """
    half = embeddings.shape[-1] // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=embeddings.device) / half)
    angles = level * frequencies
    sinusoid = torch.cat([angles.cos(), angles.sin()]).to(embeddings.dtype)
    return torch.cat([embeddings, sinusoid.expand_as(embeddings)], dim=-1)


def build_clip(config: dict[str, Any]) -> ClipVision:
    """The vision tower of a config.json."""
    return ClipVision(ClipVisionConfig.from_dict(config))
