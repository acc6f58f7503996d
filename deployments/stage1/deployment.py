"""Stage 1 on Ray Serve: prepared picture in, five views, normals and voxels out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.contracts import GenerationOptions, PreparedImage
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
    name="Stage1",
    max_ongoing_requests=1,
    health_check_period_s=10,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=600,
    ray_actor_options={"num_cpus": 0.5},
)
class Stage1:
    """Holds the joint 2D-3D model and runs one picture at a time."""

    def __init__(
        self,
        weights: Weights,
        watch: Watch,
        *,
        compile_model: bool = False,
        open_sink: OpenSink = NoSink,
    ) -> None:
        began, sink = time.monotonic(), open_sink()
        loaded = self.load(weights, compile_model)
        context = serve.get_replica_context()
        jobs = JobsLine(DeploymentHandle("Jobs", watch.jobs_app or context.app_name))
        self._pipeline = loaded.pipeline
        self._worker = StageWorker(
            WorkerFacts(
                stage="stage1",
                replica=context.replica_id.unique_id,
                device=loaded.device,
                checkpoint=weights.checkpoint,
                backends=loaded.backends,
            ),
            memory=loaded.memory,
            step_timeout_s=watch.step_timeout_s,
            alive_check_s=watch.alive_check_s,
            ask_lease=jobs.lease_left,
            sink=sink,
        )
        sink.constructed("stage1", time.monotonic() - began)
        self._beat = asyncio.create_task(self._worker.beat(jobs.heartbeat, watch.heartbeat_s))
        self._end = asyncio.create_task(end_when_spent(self._worker))

    @staticmethod
    def load(weights: Weights, compile_model: bool) -> Loaded:
        """The pipeline of these weights, on the card that Ray reserved or on the CPU."""
        from deployments.checkpoints.checkpoint import open_checkpoint
        from deployments.layers.attention import current_backend
        from deployments.stage1.pipeline import Stage1Pipeline

        card = bool(ray.get_runtime_context().get_accelerator_ids().get("GPU"))
        device = choose_device(weights.device, card_reserved=card)
        pipeline = Stage1Pipeline.from_checkpoint(
            open_checkpoint(weights.checkpoint),
            device=device,
            dtype=choose_dtype(weights.dtype),
            attention=weights.attention,
            compile=compile_model,
            fp8=weights.fp8,
        )
        return Loaded(
            pipeline,
            device_name(device),
            {"attention": current_backend().value},
            device_memory(device),
        )

    async def run(
        self, order: WorkOrder, prepared: PreparedImage, options: GenerationOptions
    ) -> AsyncGenerator[StageItem, None]:
        """One run as the items of deployments/messages.py; its value is a MultiviewResult."""
        prepared = own_arrays(prepared)
        async with self._worker.run(
            order,
            lambda progress, cancelled: self._pipeline(
                prepared, options, progress=progress, cancelled=cancelled
            ),
        ) as items:
            async for item in items:
                yield item

    def check_health(self) -> None:
        self._worker.check_health()
