"""Preparation on Ray Serve: the bytes of a picture in, a framed subject out."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

from ray import serve

from deployments.messages import StageItem, WorkOrder
from deployments.stage_report import NoSink, OpenSink
from deployments.stage_worker import StageWorker, WorkerFacts

PICTURES_AT_ONCE = 2


@serve.deployment(
    name="Preprocess",
    max_ongoing_requests=PICTURES_AT_ONCE,
    health_check_period_s=10,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=60,
    ray_actor_options={"num_cpus": 0.25},
)
class Preprocess:
    """Decodes, mattes and frames pictures on the CPU.

    A deployment of its own, because matting loads a network and needs seconds of a core, and the
    jobs room must go on answering. A picture that can not be used ends in ``Failed`` with the code
    of an ``InputError``.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        matting: str,
        max_megapixels: float,
        min_side: int,
        open_sink: OpenSink = NoSink,
    ) -> None:
        began, sink = time.monotonic(), open_sink()
        from deployments.checkpoints.checkpoint import open_checkpoint
        from deployments.preprocess.pipeline import PreprocessPipeline

        self._pipeline = PreprocessPipeline(
            open_checkpoint(checkpoint).method,
            matting=matting,
            max_megapixels=max_megapixels,
            min_side=min_side,
        )
        facts = WorkerFacts(
            stage="preprocess",
            replica=serve.get_replica_context().replica_id.unique_id,
            checkpoint=checkpoint,
        )
        self._worker = StageWorker(facts, slots=PICTURES_AT_ONCE, sink=sink)
        sink.constructed("preprocess", time.monotonic() - began)

    async def run(self, order: WorkOrder, data: bytes) -> AsyncGenerator[StageItem, None]:
        """One run as the items of deployments/messages.py; its value is a PreparedImage."""

        def work(progress: object, cancelled: object) -> object:
            return self._pipeline(data)

        async with self._worker.run(order, work) as items:
            async for item in items:
                yield item

    def check_health(self) -> None:
        self._worker.check_health()
