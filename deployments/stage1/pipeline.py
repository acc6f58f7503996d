"""Stage 1 on one screen: a prepared picture in, five views with normals and voxels out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from deployments.checkpoints.checkpoint import Checkpoint
from deployments.checkpoints.component import Component
from deployments.checkpoints.method import MethodConfig
from deployments.contracts import (
    CancelCheck,
    GenerationOptions,
    MultiviewResult,
    PreparedImage,
    Progress,
    ProgressCallback,
    ignore_progress,
    never_cancelled,
)
from deployments.errors import GenerationError
from deployments.layers.attention import choose_backend
from deployments.layers.float8 import require_float8
from deployments.layers.flow_schedule import flow_schedule
from deployments.stage1.acceleration import Stepper
from deployments.stage1.conditioning import Stage1Encoders, blank_conditioning
from deployments.stage1.models.config import JointModelConfig
from deployments.stage1.models.joint_model import JointModel
from deployments.stage1.models.quantised import use_float8
from deployments.stage1.models.structure_decoder import (
    StructureDecoder,
    StructureDecoderConfig,
    occupied_voxels,
)
from deployments.stage1.picture_vae import small_workspaces
from deployments.stage1.sampler import (
    STAGE,
    TIME_SCALE,
    Latents,
    flow_times,
    initial_noise,
    model_times,
    sample,
    scaled,
)
from deployments.stage1.views import finish_views


class Stage1Pipeline:
    """Encoders, joint model and decoders of one checkpoint on one device."""

    def __init__(
        self,
        encoders: Stage1Encoders,
        stepper: Stepper,
        structure_decoder: StructureDecoder,
        method: MethodConfig,
    ) -> None:
        self.encoders = encoders
        self.stepper = stepper
        self.structure_decoder = structure_decoder
        self.method = method

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        device: str,
        dtype: torch.dtype | None = None,
        attention: str = "auto",
        compile: bool = False,
        fp8: bool = False,
        ready: Callable[[str], None] = lambda part: None,
    ) -> Stage1Pipeline:
        """Load everything once.

        ``dtype`` None means float16 on a GPU and float32 on a CPU. ``compile`` trades minutes at
        the start for faster steps on a GPU, ``fp8`` exactness for them. ``ready`` is told the name
        of every part that is loaded or has run. Raises ``BackendError`` for what this device can
        not do.
        """
        choose_backend(attention, device)
        if fp8:
            require_float8(device)
        dtype = dtype or (torch.float16 if device.startswith("cuda") else torch.float32)
        joint = JointModelConfig.from_dict(checkpoint.config(Component.JOINT_MODEL))
        decoder = StructureDecoderConfig.from_dict(checkpoint.config(Component.STRUCTURE_DECODER))
        on_gpu = torch.device(device).type == "cuda"
        model = checkpoint.load(
            Component.JOINT_MODEL, lambda: JointModel(joint), device=device, dtype=dtype
        ).prepare_for_inference()
        if fp8:
            use_float8(model)
        ready("joint model")
        stepper = Stepper(model, compile=compile)
        if on_gpu:
            # While there is room: libraries that try their algorithms take gigabytes for it.
            stepper.warm_up(blank_conditioning(checkpoint))
            ready("first step")
        encoders = Stage1Encoders.from_checkpoint(
            checkpoint, device=device, dtype=dtype, ready=ready
        )
        # Its sign decides which voxels exist: float32, and still a few milliseconds.
        structure_decoder = checkpoint.load(
            Component.STRUCTURE_DECODER,
            lambda: StructureDecoder(decoder),
            device=device,
            dtype=torch.float32,
        )
        ready("structure decoder")
        pipeline = cls(encoders, stepper, structure_decoder, checkpoint.method)
        if on_gpu:
            pipeline.warm_up()
            ready("first run")
        return pipeline

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Run every part once, so that no request pays for compiling or recording."""
        size, condition = self.method.picture_size, self.method.condition_size
        blank = np.zeros((size, size, 4), np.uint8)
        picture = blank[..., :3]
        prepared = PreparedImage(
            original=blank,
            rgba=blank,
            front=picture,
            face=picture,
            condition=np.zeros((condition, condition, 3), np.uint8),
            alpha_coverage=0.0,
        )
        times = [float(TIME_SCALE)]
        conditioning = self.encoders(prepared)
        velocities = self.stepper.start(conditioning, times, flow_times=times, guided=True)
        noise = self._noise(seed=0)
        velocities(noise, 0)
        self._make_room()
        self.encoders.vae.decode(noise.pictures[:1])
        with small_workspaces():
            self.structure_decoder(noise.structure)
        self._make_room()

    @torch.inference_mode()
    def __call__(
        self,
        prepared: PreparedImage,
        options: GenerationOptions,
        *,
        progress: ProgressCallback = ignore_progress,
        cancelled: CancelCheck = never_cancelled,
    ) -> MultiviewResult:
        """Run the method. Raises ``Cancelled`` and ``GenerationError``."""
        steps, seed = options.stage1_steps, options.seed
        guidance = self.method.guidance if options.guidance is None else options.guidance
        timings: dict[str, float] = {}

        progress(Progress(STAGE, 0, steps, "reading the picture"))
        with self._timed("encode", timings):
            conditioning = self.encoders(prepared)

        with self._timed("sample", timings):
            schedule = flow_schedule(steps, self.method.rescale_t)
            velocities = self.stepper.start(
                conditioning,
                model_times(schedule),
                flow_times=flow_times(schedule, self.stepper.dtype),
                guided=guidance != 1.0,
            )
            latents = sample(
                velocities,
                scaled(self._noise(seed), self.method.noise_scales),
                schedule,
                guidance=guidance,
                seed=seed,
                progress=progress,
                cancelled=cancelled,
            )

        progress(Progress(STAGE, steps, steps, "decoding views and structure"))
        with self._timed("decode", timings):
            self._make_room()
            color, normal = finish_views(self.encoders.vae.decode(latents.pictures), prepared.rgba)
            with small_workspaces():
                logits = self.structure_decoder(latents.structure)
            voxels = occupied_voxels(logits).cpu().numpy().astype("int16")
        if not len(voxels):
            raise GenerationError(
                f"Stage 1 found no occupied voxel with seed {seed} and {steps} steps: "
                "try another seed or a picture that shows the whole person",
                code="empty_structure",
                seed=seed,
            )
        return MultiviewResult(
            color=color,
            normal=normal,
            voxels=voxels,
            grid=logits.shape[-1],
            seed=seed,
            steps=steps,
            timings=timings,
        )

    def _make_room(self) -> None:
        """Give back what earlier parts left to the allocator: the decoder needs large pieces."""
        if self.stepper.device.type == "cuda":
            torch.cuda.empty_cache()

    def _noise(self, seed: int) -> Latents:
        config = self.stepper.model.config
        pictures, size = 2 * config.num_views, config.sample_size
        return initial_noise(
            seed,
            (pictures, config.out_channels, size, size),
            (1, config.trellis_in_channels, *[config.resolution] * 3),
            device=self.stepper.device,
            dtype=self.stepper.dtype,
            unused=(pictures, config.projection_class_embeddings_input_dim // 2),
        )

    @contextmanager
    def _timed(self, part: str, timings: dict[str, float]) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.stepper.device.type == "cuda":
            torch.cuda.synchronize(self.stepper.device)
        timings[part] = time.perf_counter() - start
