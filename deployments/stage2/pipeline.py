"""Stage 2 as a plain object: views and voxels in, a textured mesh out (model.md 10-16)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deployments.checkpoints.checkpoint import Checkpoint
from deployments.checkpoints.component import Component
from deployments.checkpoints.method import MethodConfig
from deployments.contracts import (
    Asset,
    CancelCheck,
    GenerationOptions,
    MultiviewResult,
    PreparedImage,
    ProgressCallback,
    ignore_progress,
    never_cancelled,
)
from deployments.errors import GenerationError
from deployments.layers.attention import choose_backend
from deployments.layers.dinov2 import DinoV2
from deployments.layers.sparse.backend import choose_sparse_backend
from deployments.layers.sparse.sites import Sites
from deployments.layers.sparse.tensor import SparseTensor
from deployments.stage2.finishing import finish
from deployments.stage2.mesh.extraction import extract_mesh
from deployments.stage2.mesh.extractor import choose_extractor
from deployments.stage2.models.config import (
    GaussianDecoderConfig,
    LatentFlowConfig,
    MeshDecoderConfig,
)
from deployments.stage2.models.gaussian_decoder import GaussianDecoder
from deployments.stage2.models.latent_flow import LatentFlow
from deployments.stage2.models.mesh_decoder import MeshDecoder
from deployments.stage2.parts import Parts
from deployments.stage2.sampler import Guidance, euler_steps, flow_velocities
from deployments.stage2.warm_up import warm_up

logger = logging.getLogger(__name__)

# One step each beside the sampler's: condition, views, Gaussians, surface, extraction, finish.
_OTHER_PARTS = 6


@dataclass(frozen=True)
class Stage2Networks:
    """Everything with weights that Stage 2 runs, on one device."""

    encoder: DinoV2
    flow: LatentFlow
    gaussian_decoder: GaussianDecoder
    mesh_decoder: MeshDecoder

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype
    ) -> Stage2Networks:
        """``dtype`` is that of the large matrices; norms, inputs and outputs stay in float32."""
        flow = LatentFlowConfig.from_dict(checkpoint.config(Component.LATENT_FLOW))
        gaussian = GaussianDecoderConfig.from_dict(checkpoint.config(Component.GAUSSIAN_DECODER))
        mesh = MeshDecoderConfig.from_dict(checkpoint.config(Component.MESH_DECODER))
        load = checkpoint.load
        return cls(
            DinoV2.from_checkpoint(checkpoint, device=device, dtype=dtype),
            load(Component.LATENT_FLOW, lambda: LatentFlow(flow, dtype), device=device),
            load(
                Component.GAUSSIAN_DECODER, lambda: GaussianDecoder(gaussian, dtype), device=device
            ),
            load(Component.MESH_DECODER, lambda: MeshDecoder(mesh, dtype), device=device),
        )


class Stage2Pipeline:
    """Latents on the voxels, two decoders, then geometry and texture."""

    def __init__(
        self,
        networks: Stage2Networks,
        method: MethodConfig,
        *,
        device: torch.device,
        extraction: str = "native",
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        choose_extractor(extraction)  # a missing backend is reported now, not after a minute
        self.networks = networks
        self.method = method
        self.device = device
        self.extraction = extraction
        self.provenance = dict(provenance or {})  # written into every GLB
        self.peak_bytes: dict[str, int] = {}  # of the last run, by part, on a CUDA device

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        device: torch.device | str,
        dtype: torch.dtype | None = None,
        attention: str = "auto",
        extraction: str = "native",
    ) -> Stage2Pipeline:
        """Load all networks; ``dtype`` None is float16 on a CUDA device and float32 elsewhere.

        Raises BackendError for a backend that is asked for and can not run, CheckpointError for
        weights that are missing or do not fit.
        """
        device = torch.device(device)
        if dtype is None:
            dtype = torch.float16 if device.type == "cuda" else torch.float32
        choose_extractor(extraction)
        choose_backend(attention, device)
        choose_sparse_backend("auto", device)
        networks = Stage2Networks.from_checkpoint(checkpoint, device=device, dtype=dtype)
        warm_up(device)  # a first request does not pay for compiling
        return cls(
            networks,
            checkpoint.method,
            device=device,
            extraction=extraction,
            provenance={"checkpoint": checkpoint.name},
        )

    @torch.inference_mode()
    def __call__(
        self,
        prepared: PreparedImage,
        multiview: MultiviewResult,
        options: GenerationOptions,
        *,
        progress: ProgressCallback = ignore_progress,
        cancelled: CancelCheck = never_cancelled,
    ) -> Asset:
        """Make the asset. Raises GenerationError when no usable mesh comes out, or Cancelled."""
        networks = self.networks
        sites = self._sites(multiview)
        parts = Parts(options.stage2_steps + _OTHER_PARTS, self.device, progress, cancelled)

        with parts.part("condition", "reading the photo"):
            condition = networks.encoder.condition(prepared.condition[None])
        with parts.part("latent_flow", "sampling latents"):
            latent = self._sample(sites, condition, options, parts)
        with parts.part("views", "reading the views"):
            color, normal = self._features(multiview)
        with parts.part("gaussians", "decoding Gaussians"):
            decoder = networks.gaussian_decoder
            raw = decoder(latent, color, normal)
            gaussians = decoder.represent(latent.coords, raw).activate(
                decoder.config.representation_config
            )
        with parts.part("surface", "decoding the surface"):
            cells = networks.mesh_decoder(latent, color, normal)
        with parts.part("extraction", "extracting the mesh"):
            mesh = extract_mesh(
                cells.coords[:, 1:],
                cells.feats,
                networks.mesh_decoder.mesh_resolution,
                backend=self.extraction,
                colours=False,
            )
        with parts.part("finish", "cleaning, unwrapping and texturing"):
            asset = finish(
                mesh,
                multiview,
                options,
                gaussians=gaussians,
                device=self.device,
                provenance={
                    **self.provenance,
                    "seed": options.seed,
                    "stage1_steps": multiview.steps,
                    "stage2_steps": options.stage2_steps,
                },
            )
        self.peak_bytes = parts.peak_bytes
        finishing = {f"finish.{name}": seconds for name, seconds in asset.timings.items()}
        return replace(asset, timings={**parts.seconds, **finishing})

    def _sites(self, multiview: MultiviewResult) -> Sites:
        """The occupied voxels as batch item 0."""
        grid, voxels = self.networks.flow.config.resolution, multiview.voxels
        if len(voxels) == 0:
            raise GenerationError(
                f"Stage 1 found no occupied voxel (seed {multiview.seed}): try another seed or a"
                " picture that shows the whole person",
                code="empty_structure",
            )
        if multiview.grid != grid:
            raise GenerationError(
                f"the voxels lie in a grid of {multiview.grid}, Stage 2 of this checkpoint works"
                f" in {grid}: run both stages from one checkpoint",
                code="grid_mismatch",
            )
        xyz = torch.from_numpy(voxels).to(self.device, torch.int32)
        return Sites(torch.nn.functional.pad(xyz, (1, 0)), batch=1)

    def _sample(
        self, sites: Sites, condition: Tensor, options: GenerationOptions, parts: Parts
    ) -> SparseTensor:
        """Latents on the voxels, de-normalised (model.md 12)."""
        method, channels = self.method, self.networks.flow.config.in_channels
        strength = options.stage2_guidance
        guidance = Guidance(
            method.stage2_guidance if strength is None else strength,
            method.stage2_guidance_interval,
        )
        generator = torch.Generator().manual_seed(options.seed)  # same noise on every device
        noise = torch.randn(len(sites), channels, generator=generator)
        latent = (method.stage2_noise_scale * noise).to(self.device)
        for step in euler_steps(
            flow_velocities(self.networks.flow, sites, condition),
            latent,
            steps=options.stage2_steps,
            rescale_t=method.stage2_rescale_t,
            guidance=guidance,
        ):
            latent = step.latent
            parts.step("sampling latents")
        deviation, mean = (latent.new_tensor(v) for v in (method.latent_std, method.latent_mean))
        return SparseTensor(sites, latent * deviation + mean)

    def _features(self, multiview: MultiviewResult) -> tuple[Tensor, Tensor]:
        """Picture features of the four body views, colour and normal: (1, 4, G, G, F) each."""
        color, normal = (
            torch.from_numpy(pictures[:4]).to(self.device).permute(0, 3, 1, 2).float() / 255
            for pictures in (multiview.color, multiview.normal)
        )
        encode = self.networks.encoder.multiview_features
        return encode(color)[None], encode(normal)[None]
