"""The whole graph in one process: HTTP, the jobs room, and stage workers without replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from scripted import asset, multiview_result, prepared_image

from deployments.contracts import CancelCheck, Progress, ProgressCallback
from deployments.messages import Heartbeat, StageItem, WorkOrder
from deployments.stage_worker import StageWorker, WorkerFacts
from serve_app.ingress.api import make_api
from serve_app.jobs.monitor import Sight
from serve_app.jobs.runner import Stages
from serve_app.jobs.service import JobRoom
from serve_app.jobs.stages import StageCaller
from serve_app.jobs.tables import Database
from serve_app.metrics.catalogue import Metric
from serve_app.metrics.stage_sink import ReplicaSink
from serve_app.settings import FrontArgs
from serve_app.storage import open_storage
from serve_app.tracing import OpenTelemetryTracer

RUNS = Sight("HEALTHY", running=1, coming=0, message="")
STAGES = ("preprocess", "stage1", "stage2", "preview")


class Recorded:
    """A recorder that adds up."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, ...], float] = {}

    def record(self, metric: Metric, value: float = 1.0, /, **labels: str) -> None:
        assert set(labels) == set(metric.labels)
        key = (metric.name.removeprefix("synchuman_"), *(labels[name] for name in metric.labels))
        self.seen[key] = self.seen.get(key, 0.0) + value


class Stream:
    """A run of a worker as a handle's stream: it goes on to its end whoever listens, as in Ray."""

    def __init__(self, worker: StageWorker, order: WorkOrder, work: Callable[..., Any]) -> None:
        self._items: asyncio.Queue[StageItem | None] = asyncio.Queue()
        self._run = asyncio.ensure_future(self._drive(worker, order, work))

    async def _drive(self, worker: StageWorker, order: WorkOrder, work: Callable[..., Any]) -> None:
        async with worker.run(order, work) as items:
            async for item in items:
                self._items.put_nowait(item)
        self._items.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[StageItem]:
        while (item := await self._items.get()) is not None:
            yield item

    def cancel(self) -> None:
        """Serve's own cancels a run that goes on; here a finished one is about to end by itself."""


class WholeGraph:
    """``faults[stage]`` holds errors that the stage's next runs raise."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.faults: dict[str, list[Exception]] = {}
        self.recorded, self.spans = Recorded(), InMemorySpanExporter()
        self._provider = TracerProvider()
        self._provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.tracer = OpenTelemetryTracer(self._provider)
        args = FrontArgs(**{"matting": "none", **settings})
        self._database = Database(f"sqlite:///{folder}/jobs.db")
        storage = open_storage(folder / "jobs")
        values = {
            "preprocess": prepared_image(),
            "stage1": multiview_result(),
            "stage2": asset(),
            "preview": b"glTF",
            "export": b"glTF",
        }
        self.workers = {
            stage: StageWorker(
                WorkerFacts(stage, f"{stage}-1", checkpoint="random:small"),
                sink=ReplicaSink(self.recorded, self.tracer),
            )
            for stage in values
        }
        callers = {stage: self._caller(stage, value) for stage, value in values.items()}
        known = {name: callers[name] for name in Stages.__dataclass_fields__}
        self.room = JobRoom(
            "room",
            args,
            self._database,
            storage,
            Stages(**known),
            look=lambda: dict.fromkeys(STAGES, RUNS),
            applications=dict.fromkeys(STAGES, "app"),
            recorder=self.recorded,
            tracer=self.tracer,
        )
        api = make_api(self.room, storage, args, recorder=self.recorded, tracer=self.tracer)
        self.http = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=api), base_url="http://synchuman", timeout=60
        )

    def _caller(self, stage: str, value: Any) -> StageCaller:
        def work(progress: ProgressCallback, cancelled: CancelCheck) -> Any:
            if self.faults.get(stage):
                raise self.faults[stage].pop(0)
            for step in (1, 2, 3) if stage in ("stage1", "stage2") else ():
                progress(Progress(stage, step, 3, "sampling", sampling=True))
            progress(Progress(stage, 3, 3, "finishing"))
            return value

        return StageCaller(stage, lambda order, *_: Stream(self.workers[stage], order, work))

    async def __aenter__(self) -> WholeGraph:
        for stage in ("stage1", "stage2"):
            await self.room.heartbeat(Heartbeat(stage, stage, "cpu", "random:small", {}, False))
        self.room.start()
        return self

    async def settle(self) -> None:
        """Let running jobs end; an answer may be out before its job's run is over."""
        await self.room.drain(5)

    async def __aexit__(self, *_: object) -> None:
        await self.settle()
        await self.http.aclose()
        self._database.close()
        self._provider.shutdown()
