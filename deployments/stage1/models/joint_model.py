"""The joint 2D-3D model: a multi-view UNet and a structure flow that read each other (model.md 6).

A run is ``prepare`` once, then ``step`` for every time. What the steps share is computed in
``prepare``: keys and values of prompts and condition, and everything that time adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.layers.embeddings import TimestepEmbedder, grid_position_table, sinusoid
from deployments.layers.group_norm import Measured, convolve_measured, group_norm
from deployments.layers.modulated_block import ModulatedBlock
from deployments.layers.pointwise import convolve
from deployments.layers.voxels import patchify, pixel_shuffle_3d
from deployments.stage1.models.attention import SelfAttention
from deployments.stage1.models.beside import Beside
from deployments.stage1.models.config import JointModelConfig
from deployments.stage1.models.multiview_block import DOMAINS, TextKeys
from deployments.stage1.models.sync import PictureSync, StructureSync
from deployments.stage1.models.unet import (
    build_down_blocks,
    build_mid_block,
    build_up_blocks,
    residual_blocks,
    transformers,
)
from deployments.stage1.models.unet_blocks import Conditions, MultiviewTransformer, Upsample

_HEAD_EPS = 1e-5


@dataclass(frozen=True)
class Conditioning:
    """What a person's picture contributes to a run. P = 2 V pictures, V normal rows first."""

    prompts: Tensor  # (P, L, C) text embeddings
    pictures: Tensor  # (P, E) CLIP embeddings with the noise-level part
    latents: Tensor  # (P, 4, S, S) scaled VAE latents
    condition: Tensor  # (1, L', C') DINOv2 tokens of the condition picture


@dataclass(frozen=True)
class Prepared:
    """What all steps of a run share. G = 2 guidance branches, unconditional first, or 1 without.

    Rows of picture tensors are ordered (G, V, 2): branch, view, domain.
    """

    latents: Tensor  # (G V 2, 4, S, S) picture latents, zero in the unconditional branch
    text: list[TextKeys]  # by transformer
    structure_keys: list[Tensor]  # by flow block (1, L', 2, H, D): the other branch sees zeros
    time_shifts: Tensor  # (steps, G V 2, sum of widths of all residual blocks)
    modulation: Tensor  # (steps, flow blocks, 6 C)
    branches: int

    def shared(self) -> list[Tensor]:
        """Every tensor that all steps read."""
        text = [tensor for keys in self.text for tensor in keys]
        return [self.latents, *text, *self.structure_keys]

    def by_step(self) -> tuple[Tensor, Tensor]:
        """The tensors of which every step reads its own row."""
        return self.time_shifts, self.modulation


class JointModel(nn.Module):
    """Velocities of picture latents and of the structure latent at one time."""

    def __init__(self, config: JointModelConfig) -> None:
        super().__init__()
        self.config = config
        first = config.block_out_channels[0]
        self.conv_in = nn.Conv2d(config.in_channels, first, 3, padding=1)
        self.time_embedding = _EmbeddingMLP(first, config.time_channels)
        self.class_embedding = _EmbeddingMLP(
            config.projection_class_embeddings_input_dim, config.time_channels
        )
        self.down_blocks = build_down_blocks(config)
        self.mid_block = build_mid_block(config)
        self.up_blocks = build_up_blocks(config)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, first, eps=config.norm_eps)
        self.conv_out = nn.Conv2d(first, config.out_channels, 3, padding=1)

        width, patch = config.model_channels, config.patch_size**3
        self.t_embedder = TimestepEmbedder(width)
        self.input_layer = nn.Linear(config.trellis_in_channels * patch, width)
        self.register_buffer("pos_emb", grid_position_table(config.token_grid, width))
        self.blocks = nn.ModuleList(
            ModulatedBlock(
                width,
                config.cond_channels,
                config.num_heads,
                mlp_ratio=config.mlp_ratio,
                qk_rms_norm=config.qk_rms_norm,
            )
            for _ in range(config.num_blocks)
        )
        self.out_layer = nn.Linear(width, config.trellis_out_channels * patch)

        sync, views = config.sync, config.num_views
        attention = (sync.heads, sync.dim_head, views)
        self.dual_CrossAttblocks_SS = nn.ModuleList(
            StructureSync(dim, sync.structure_dim, *attention, config.token_grid)
            for dim in sync.ss_dims
        )
        self.dual_CrossAttblocks_MV = nn.ModuleList(
            PictureSync(sync.mv_dim, sync.structure_dim, *attention, sync.image_pixels)
            for _ in range(2)
        )
        self._second_stream: torch.cuda.Stream | None = None

    def prepare(
        self,
        conditioning: Conditioning,
        times: Sequence[float],
        *,
        guided: bool,
        flow_times: Sequence[float] | None = None,
    ) -> Prepared:
        """Compute what the steps at ``times`` share.

        ``times`` are model times, 1000 t; ``flow_times`` are those of the structure flow where they
        are rounded differently (model.md 17). Without guidance there is one branch and half the
        work.
        """
        branches = 2 if guided else 1
        dtype, device = self.conv_in.weight.dtype, self.conv_in.weight.device
        views = self.config.num_views

        def rows(x: Tensor, *, conditional: bool) -> Tensor:
            by_domain = x.to(device, dtype).view(DOMAINS, views, *x.shape[1:])
            branch = by_domain.transpose(0, 1).reshape(x.shape)
            if not guided:
                return branch
            return torch.cat([torch.zeros_like(branch) if conditional else branch, branch])

        def moments(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        condition = conditioning.condition.to(device, dtype)
        prompts = rows(conditioning.prompts, conditional=False)
        flow_time = self.t_embedder(moments(flow_times if flow_times is not None else times))
        return Prepared(
            latents=rows(conditioning.latents, conditional=True),
            text=[t.block.attn2.context_keys(prompts) for t in transformers(*self._unet)],
            structure_keys=[block.context_keys(condition) for block in self._flow],
            time_shifts=self._time_shifts(
                moments(times), rows(conditioning.pictures, conditional=True)
            ),
            modulation=torch.stack([block.modulation(flow_time) for block in self._flow], dim=1),
            branches=branches,
        )

    def step(
        self, latents: Tensor, structure: Tensor, prepared: Prepared, step: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Velocities at the time number ``step`` of those given to ``prepare``.

        ``latents`` (2 V, 4, S, S), normal rows first, and ``structure`` (1, C, R, R, R) are the
        noisy latents; a ``step`` on the device keeps the call free of synchronisation. Returns (G,
        2 V, 4, S, S) and (G, C, R, R, R), the unconditional branch first.
        """
        index = torch.as_tensor(step, device=latents.device).view(1)
        time_shifts = prepared.time_shifts.index_select(0, index)[0]
        modulation = prepared.modulation.index_select(0, index)[0]
        return self(self.pictures(latents, prepared), structure, prepared, time_shifts, modulation)

    def forward(
        self,
        pictures: Tensor,
        structure: Tensor,
        prepared: Prepared,
        time_shifts: Tensor,
        modulation: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One evaluation, in the order of model.md 6.7.

        ``pictures`` (G V 2, 8, S, S), ``structure`` (1, C, R, R, R), ``time_shifts`` (G V 2,
        widths), ``modulation`` (flow blocks, 6 C).
        """
        sync = self.config.sync
        conditions = Conditions(
            list(torch.split(time_shifts, self._shift_widths, dim=-1)), prepared.text
        )
        before_middle, after_middle = sync.flow_splits
        structure_reads = iter(self.dual_CrossAttblocks_SS)
        pictures_read = iter(self.dual_CrossAttblocks_MV)

        # A piece of the flow starts as soon as its input is there, beside the UNet: ``ahead`` is
        # its output, ``s`` what the pictures read in the meantime.
        beside = Beside(self._second_stream)

        def flow(s: Tensor, start: int, stop: int) -> Tensor:
            return beside.start(lambda s: self._run_flow(s, prepared, modulation, start, stop), s)

        ahead = flow(self._flow_in(structure, prepared.branches), 0, before_middle)
        x = convolve_measured(self.conv_in, pictures)
        skips = [x]
        for down in self.down_blocks:
            x, made = down(x, conditions)
            skips += made  # the skips stay as they were before pictures read the structure
            size = x.pixels.shape[-1]
            if down.has_downsampler and size == sync.structure_pixels:
                beside.join()
                s = next(structure_reads)(x.pixels, ahead)
                ahead = flow(s, before_middle, after_middle)
            if down.has_downsampler and size == sync.image_pixels:
                x = Measured(next(pictures_read)(x.pixels, s))

        x = self.mid_block(x, conditions)
        beside.join()
        s = ahead

        for up in self.up_blocks:
            size = x.pixels.shape[-1]
            if size == sync.image_pixels and up.has_upsampler:
                x = Measured(next(pictures_read)(x.pixels, s))
            if size == sync.structure_pixels and up.has_upsampler:
                s = next(structure_reads)(x.pixels, s)
                ahead = flow(s, after_middle, len(self.blocks))
            x = up(x, skips, conditions)

        v = convolve(self.conv_out, group_norm(x, self.conv_norm_out))
        beside.join()
        return self._branches(v, prepared), self._flow_out(ahead)

    def prepare_for_inference(self) -> JointModel:
        """Lay weights out for speed once they are on their device, in their dtype.

        Convolutions go to channels-last memory, the q, k, v weights of every self-attention become
        one product, the weights of every up-sampling are added up, what depends on weights alone is
        computed. Values and keys of the state dict do not change.
        """
        for module in self.modules():
            if isinstance(module, SelfAttention | Upsample | MultiviewTransformer | ModulatedBlock):
                module.fuse()
            elif isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            elif isinstance(module, nn.Conv3d):
                module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        return self

    def use_second_stream(self, stream: torch.cuda.Stream | None) -> None:
        """Run the flow's blocks on ``stream`` beside those of the UNet; None: one by one."""
        self._second_stream = stream

    @property
    def _unet(self) -> tuple[nn.Module, ...]:
        return self.down_blocks, self.mid_block, self.up_blocks

    @property
    def _flow(self) -> list[ModulatedBlock]:
        return list(self.blocks)  # type: ignore[arg-type]

    @property
    def _shift_widths(self) -> list[int]:
        return [block.conv1.out_channels for block in residual_blocks(*self._unet)]

    def _time_shifts(self, times: Tensor, pictures: Tensor) -> Tensor:
        """Model times (steps,), CLIP rows (rows, E) -> (steps, rows, all widths)."""
        dtype = pictures.dtype
        time = self.time_embedding(sinusoid(times, self.config.block_out_channels[0]).to(dtype))
        embedding = time[:, None] + self.class_embedding(pictures)
        blocks = residual_blocks(*self._unet)
        return torch.cat([block.time_shift(embedding) for block in blocks], dim=-1)

    def pictures(self, latents: Tensor, prepared: Prepared) -> Tensor:
        """Noisy latents (2 V, 4, S, S) beside the picture latents, rows (G V 2, 8, S, S)."""
        by_domain = latents.to(prepared.latents.dtype).view(DOMAINS, -1, *latents.shape[1:])
        noisy = by_domain.transpose(0, 1).flatten(0, 1).repeat(prepared.branches, 1, 1, 1)
        pictures = torch.cat([noisy, prepared.latents], dim=1)
        return pictures.contiguous(memory_format=torch.channels_last)

    def _branches(self, rows: Tensor, prepared: Prepared) -> Tensor:
        """Rows (G V 2, 4, S, S) -> (G, 2 V, 4, S, S), normal rows first."""
        branches = rows.view(prepared.branches, -1, DOMAINS, *rows.shape[1:])
        return branches.transpose(1, 2).flatten(1, 2)

    def _flow_in(self, structure: Tensor, branches: int) -> Tensor:
        """Structure latent (1, C, R, R, R) -> tokens (G, N, C)."""
        cells = patchify(structure.to(self.input_layer.weight.dtype), self.config.patch_size)
        tokens: Tensor = self.input_layer(cells.flatten(2).transpose(1, 2)) + self.pos_emb
        return tokens.expand(branches, -1, -1)

    def _run_flow(
        self, s: Tensor, prepared: Prepared, modulation: Tensor, start: int, stop: int
    ) -> Tensor:
        stop = min(stop, len(self.blocks))
        for i in range(start, stop):
            following = modulation[i + 1 : i + 2] if i + 1 < stop else None
            keys = prepared.structure_keys[i]
            s = self.blocks[i](s, modulation[i : i + 1], keys, following=following)
        return s

    def _flow_out(self, s: Tensor) -> Tensor:
        """Tokens (G, N, C) -> velocity of the structure latent (G, C, R, R, R)."""
        h = self.out_layer(F.layer_norm(s, s.shape[-1:], eps=_HEAD_EPS))
        grid = self.config.token_grid
        cells = h.transpose(1, 2).reshape(s.shape[0], -1, grid, grid, grid)
        return pixel_shuffle_3d(cells, self.config.patch_size)


class _EmbeddingMLP(nn.Module):
    """Two linear layers with SiLU between them."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, out_channels)
        self.linear_2 = nn.Linear(out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., out_channels)."""
        return self.linear_2(F.silu(self.linear_1(x)))
