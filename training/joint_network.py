"""The joint model with a time for every subject of a batch.

The deployed class runs one person at one time, in two guidance branches. Here the branches are the
subjects of a batch, so only the places where time enters differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deployments.layers.embeddings import sinusoid
from deployments.stage1.models.config import JointModelConfig
from deployments.stage1.models.joint_model import JointModel, Prepared
from deployments.stage1.models.multiview_block import DOMAINS
from deployments.stage1.models.unet import residual_blocks, transformers
from deployments.stage1.models.unet_blocks import ResnetBlock
from training.attention import make_attention_trainable

MODEL_TIME = 1000.0  # of t = 1


@dataclass(frozen=True)
class Conditions:
    """What B photographs contribute; views 0..4, of which 0-3 show the front and 4 the face."""

    prompts: Tensor  # (10, 77, D) the same for everybody, rows as in model.md 5.3
    pictures: Tensor  # (B, 2, E) CLIP vectors of front and face with the noise-level part
    latents: Tensor  # (B, 2, 4, S, S) VAE latents of front and face
    condition: Tensor  # (B, L, C) DINOv2 tokens

    def to(self, dtype: torch.dtype) -> Conditions:
        """The same in another precision."""
        values = (self.prompts, self.pictures, self.latents, self.condition)
        return Conditions(*(value.to(dtype) for value in values))


class BatchedJointModel(JointModel):
    """Same weights, same layers; one time a subject, and attention that trains well."""

    def __init__(self, config: JointModelConfig) -> None:
        super().__init__(config)
        make_attention_trainable(self)

    def velocities(
        self, latents: Tensor, structure: Tensor, times: Tensor, conditions: Conditions
    ) -> tuple[Tensor, Tensor]:
        """Velocities at times (B,) in 0..1.

        ``latents`` is (B, V, 2, 4, S, S), domains normal and colour, ``structure``
        (B, C, R, R, R); returns the same shapes.
        """
        subjects, views = latents.shape[:2]

        def rows(values: Tensor) -> Tensor:  # (B, 2, ...) -> (B V 2, ...)
            front = values[:, :1].expand(-1, views - 1, *values.shape[2:])
            by_view = torch.cat([front, values[:, 1:]], dim=1)[:, :, None]
            return by_view.expand(-1, -1, DOMAINS, *values.shape[2:]).flatten(0, 2)

        prompts = conditions.prompts.unflatten(0, (DOMAINS, views)).transpose(0, 1).flatten(0, 1)
        text = []
        for transformer in transformers(*self._unet):
            keys, values = transformer.block.attn2.context_keys(prompts)
            text.append((_repeat(keys, subjects), _repeat(values, subjects)))
        moments = times * MODEL_TIME
        flow_time = self.t_embedder(moments)
        prepared = Prepared(
            latents=rows(conditions.latents),
            text=text,
            structure_keys=[block.context_keys(conditions.condition) for block in self._flow],
            time_shifts=moments,
            modulation=moments,
            branches=subjects,
        )
        waves = sinusoid(moments, self.config.block_out_channels[0]).to(latents.dtype)
        embedding = self.time_embedding(waves)
        embedding = embedding.repeat_interleave(views * DOMAINS, 0)
        embedding = embedding + self.class_embedding(rows(conditions.pictures))
        blocks: list[ResnetBlock] = list(residual_blocks(*self._unet))
        pictures = torch.cat([latents.flatten(0, 2), prepared.latents], dim=1)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        # `forward` hands out one row of `modulation` to a block; here that is one for each subject.
        velocity, structure_velocity = self(
            pictures,
            structure,
            prepared,
            torch.cat([block.time_shift(embedding) for block in blocks], dim=-1),
            torch.stack([block.modulation(flow_time) for block in self._flow]),
        )
        by_domain = velocity.unflatten(1, (DOMAINS, views)).transpose(1, 2)
        return by_domain, structure_velocity

    def _run_flow(
        self, s: Tensor, prepared: Prepared, modulation: Tensor, start: int, stop: int
    ) -> Tensor:
        for i in range(start, min(stop, len(self.blocks))):
            s = self.blocks[i](s, modulation[i], prepared.structure_keys[i])
        return s


class Velocities(nn.Module):
    """``BatchedJointModel.velocities`` as a module's call, which is what can be run in half."""

    def __init__(self, flow: BatchedJointModel) -> None:
        super().__init__()
        self.flow = flow

    def forward(
        self, latents: Tensor, structure: Tensor, times: Tensor, conditions: Conditions
    ) -> tuple[Tensor, Tensor]:
        return self.flow.velocities(latents, structure, times, conditions)


def _repeat(rows: Tensor, subjects: int) -> Tensor:
    """(10, ...) -> (B 10, ...)."""
    return rows.expand(subjects, *rows.shape).flatten(0, 1)
