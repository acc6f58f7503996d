"""Finishing without a card on Ray Serve: previews of Stage 1's results, exports of Stage 2's."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

from ray import serve

from deployments.contracts import GenerationOptions, MultiviewResult, Surface
from deployments.messages import StageItem, WorkOrder
from deployments.replica import own_arrays
from deployments.stage_report import NoSink, OpenSink
from deployments.stage_worker import StageWorker, WorkerFacts


@serve.deployment(
    name="Preview",
    max_ongoing_requests=1,
    health_check_period_s=10,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=60,
    ray_actor_options={"num_cpus": 0.1},
)
class Preview:
    """Makes ``stage1/preview.glb`` for jobs whose Stage 2 did not run, and exports of the others.

    A deployment of its own: it has to work exactly when Stage 2 does not, it needs no card, so it
    must not hold one of Stage 1's, and its seconds of geometry must not run inside the jobs room.
    An export needs what Stage 2 has left and none of its networks: here it neither waits for a card
    behind a sampling nor keeps one from it.
    """

    def __init__(self, *, open_sink: OpenSink = NoSink) -> None:
        began, sink = time.monotonic(), open_sink()
        from deployments.preview.pipeline import PreviewPipeline

        self._pipeline = PreviewPipeline()
        facts = WorkerFacts(
            stage="preview", replica=serve.get_replica_context().replica_id.unique_id
        )
        self._worker = StageWorker(facts, sink=sink)
        sink.constructed("preview", time.monotonic() - began)

    async def run(
        self, order: WorkOrder, multiview: MultiviewResult, options: GenerationOptions
    ) -> AsyncGenerator[StageItem, None]:
        """One run as the items of deployments/messages.py; its value is the GLB's bytes."""

        def work(progress: object, cancelled: object) -> object:
            return self._pipeline(own_arrays(multiview), options)

        async with self._worker.run(order, work) as items:
            async for item in items:
                yield item

    async def export(
        self,
        order: WorkOrder,
        surface: Surface,
        multiview: MultiviewResult,
        options: GenerationOptions,
    ) -> AsyncGenerator[StageItem, None]:
        """The same for an export; its value is an Asset."""
        from deployments.stage2.finishing import finish_again

        def work(progress: object, cancelled: object) -> object:
            return finish_again(own_arrays(surface), own_arrays(multiview), options)

        async with self._worker.run(order, work) as items:
            async for item in items:
                yield item

    def check_health(self) -> None:
        self._worker.check_health()
