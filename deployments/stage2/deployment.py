"""Stage 2 on Ray Serve: prepared picture, views and voxels in, a textured mesh out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.contracts import GenerationOptions, MultiviewResult, PreparedImage
from deployments.errors import BackendError
from deployments.messages import StageItem, WorkOrder
from deployments.replica import (
    JobsLine,
    Loaded,
    Watch,
    Weights,
    choose_device,
    choose_dtype,
    device_memory,
    device_name,
    end_when_spent,
    own_arrays,
)
from deployments.stage_report import NoSink, OpenSink
from deployments.stage_worker import StageWorker, WorkerFacts


@serve.deployment(
    name="Stage2",
    max_ongoing_requests=1,
    health_check_period_s=10,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=600,
    ray_actor_options={"num_cpus": 0.5},
)
class Stage2:
    """Holds the latent flow and both decoders and makes one asset at a time.

    When the backend that ``extraction`` names is missing, ``idle`` starts the replica without its
    pipeline: it says why in every heartbeat and answers every run with ``Unavailable`` at once.
    That costs a replica but keeps the application RUNNING, which KubeRay insists on.

    :raises BackendError: at start, when a backend is missing and ``idle`` is False. Without kaolin
        its text is that of unified_api.md.
    """

    def __init__(
        self,
        weights: Weights,
        watch: Watch,
        *,
        extraction: str = "native",
        idle: bool = False,
        open_sink: OpenSink = NoSink,
    ) -> None:
        began, sink = time.monotonic(), open_sink()
        try:
            loaded = self.load(weights, extraction)
        except BackendError as error:
            if not idle:
                raise
            reason = str(error.detail.get("reason", error.message))
            loaded = Loaded(None, weights.device, {"extraction": extraction}, reason=reason)
        context = serve.get_replica_context()
        jobs = JobsLine(DeploymentHandle("Jobs", watch.jobs_app or context.app_name))
        self._pipeline = loaded.pipeline
        self._worker = StageWorker(
            WorkerFacts(
                stage="stage2",
                replica=context.replica_id.unique_id,
                device=loaded.device,
                checkpoint=weights.checkpoint,
                backends=loaded.backends,
            ),
            reason=loaded.reason,
            memory=loaded.memory,
            step_timeout_s=watch.step_timeout_s,
            alive_check_s=watch.alive_check_s,
            ask_lease=jobs.lease_left,
            sink=sink,
        )
        sink.constructed("stage2", time.monotonic() - began)
        self._beat = asyncio.create_task(self._worker.beat(jobs.heartbeat, watch.heartbeat_s))
        self._end = asyncio.create_task(end_when_spent(self._worker))

    @staticmethod
    def load(weights: Weights, extraction: str) -> Loaded:
        """The pipeline of these weights, on the card that Ray reserved or on the CPU."""
        from deployments.checkpoints.checkpoint import open_checkpoint
        from deployments.layers.attention import current_backend
        from deployments.stage2.pipeline import Stage2Pipeline

        card = bool(ray.get_runtime_context().get_accelerator_ids().get("GPU"))
        device = choose_device(weights.device, card_reserved=card)
        pipeline = Stage2Pipeline.from_checkpoint(
            open_checkpoint(weights.checkpoint),
            device=device,
            dtype=choose_dtype(weights.dtype),
            attention=weights.attention,
            extraction=extraction,
        )
        return Loaded(
            pipeline,
            device_name(device),
            {"attention": current_backend().value, "extraction": extraction},
            device_memory(device),
        )

    async def run(
        self,
        order: WorkOrder,
        prepared: PreparedImage,
        multiview: MultiviewResult,
        options: GenerationOptions,
    ) -> AsyncGenerator[StageItem, None]:
        """One run as the items of deployments/messages.py; its value is an Asset."""
        prepared, multiview = own_arrays(prepared), own_arrays(multiview)
        async with self._worker.run(
            order,
            lambda progress, cancelled: self._pipeline(
                prepared, multiview, options, progress=progress, cancelled=cancelled
            ),
        ) as items:
            async for item in items:
                yield item

    def check_health(self) -> None:
        self._worker.check_health()
