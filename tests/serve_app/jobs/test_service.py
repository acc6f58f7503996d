"""The jobs room in one process: real loops, store and storage, scripted stages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from scripted import HANG, ScriptedStage, asset, multiview_result, prepared_image, run_of

from deployments.contracts import GenerationOptions, Mode
from deployments.errors import ServiceError
from deployments.messages import Accepted, Heartbeat, Started
from serve_app.jobs import service as service_module
from serve_app.jobs.monitor import Sight
from serve_app.jobs.protocol import JobRequest, JobStatus
from serve_app.jobs.runner import Stages
from serve_app.jobs.service import JobRoom
from serve_app.jobs.stages import StageCaller
from serve_app.jobs.tables import Database
from serve_app.options import options_as_json
from serve_app.settings import FrontArgs
from serve_app.storage import open_storage

RUNS = Sight("HEALTHY", running=1, coming=0, message="")
STAGES = ("preprocess", "stage1", "stage2", "preview")
BEGUN = [Accepted("r"), Started()]


class House:
    """Rooms that share one database and one set of stages."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/jobs.db"
        self.storage = open_storage(folder / "jobs")
        self.stages = {
            "preprocess": ScriptedStage(run_of("preprocess", prepared_image(), 0)),
            "stage1": ScriptedStage(run_of("stage1", multiview_result())),
            "stage2": ScriptedStage(run_of("stage2", asset())),
            "preview": ScriptedStage(run_of("preview", b"preview", 0)),
            "export": ScriptedStage(run_of("export", asset(), 0)),
        }
        self.rooms: list[JobRoom] = []
        self.databases: list[Database] = []

    def open(self, name: str = "room", **settings: Any) -> JobRoom:
        database = Database(self.url)
        args = FrontArgs.model_validate({"lease_s": 1, "monitor_period_s": 0.1, **settings})
        callers = {stage: StageCaller(stage, script) for stage, script in self.stages.items()}
        room = JobRoom(
            name,
            args,
            database,
            self.storage,
            Stages(**callers),
            look=lambda: dict.fromkeys(STAGES, RUNS),
            applications=dict.fromkeys(STAGES, "app"),
        )
        self.databases.append(database)
        self.rooms.append(room)
        return room

    async def submit(self, room: JobRoom, job: str = "a", mode: Mode = Mode.OFFICIAL) -> Any:
        self.storage.write(f"{job}/input.png", b"picture")
        return await room.submit(
            JobRequest(
                job_id=job,
                input_path=f"{job}/input.png",
                options=options_as_json(GenerationOptions(mode=mode)),
            )
        )

    async def close(self) -> None:
        for room in self.rooms:
            await room.drain(0)
        for database in self.databases:
            database.close()


@pytest.fixture(autouse=True)
def _quick_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "LOOK_FOR_JOBS_S", 0.05)
    monkeypatch.setattr(service_module, "LOOK_FOR_EVENTS_S", 0.05)
    monkeypatch.setattr(service_module, "STATES_KEPT_S", 0.0)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    opened = House(tmp_path)
    yield opened
    await opened.close()


async def until(condition: Callable[[], Any], within_s: float = 10) -> None:
    async def wait() -> None:
        while True:
            answer = condition()
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.02)

    await asyncio.wait_for(wait(), within_s)


async def kinds(room: JobRoom, job: str = "a") -> list[str]:
    return [event.kind async for event in room.events(job)]


async def test_a_submitted_job_is_done_and_its_events_end(house):
    room = house.open()
    room.start()
    assert (await house.submit(room)).status is JobStatus.QUEUED
    told = await asyncio.wait_for(kinds(room), 10)
    assert (told[0], told[-1]) == ("queued", "result")
    assert (await room.get("a")).status is JobStatus.SUCCEEDED
    assert await kinds(room) == told, "a finished job can be watched again"


async def test_no_more_jobs_at_once_than_allowed(house):
    house.stages["stage1"].scripts = [[*BEGUN, HANG]]
    room = house.open(runner_concurrency=2)
    room.start()
    for job in "abc":
        await house.submit(room, job)
    await until(lambda: len(house.stages["stage1"].calls) == 2)
    await asyncio.sleep(0.2)
    state = await room.state()
    assert (state.running, state.queued) == (2, 1)


async def test_a_running_job_is_cancelled_wherever_it_waits(house):
    house.stages["stage1"].scripts = [[*BEGUN, HANG]]
    room = house.open()
    room.start()
    await house.submit(room)
    await until(lambda: house.stages["stage1"].calls)
    await room.cancel("a")
    assert (await asyncio.wait_for(kinds(room), 5))[-1] == "cancelled"
    assert house.stages["stage1"].cancelled == 1


async def test_another_room_can_cancel_it_too(house):
    house.stages["stage1"].scripts = [[*BEGUN, HANG]]
    first, second = house.open("first"), house.open("second")
    first.start()
    await house.submit(second)
    await until(lambda: house.stages["stage1"].calls)
    view = await second.cancel("a")
    assert (view.status, view.cancel_requested) == (JobStatus.RUNNING, True)
    assert (await asyncio.wait_for(kinds(second), 5))[-1] == "cancelled"
    assert await second.alive("a", 1) == 0


async def test_leases_are_renewed_while_a_job_runs(house):
    house.stages["stage1"].scripts = [[*BEGUN, HANG]]
    first, second = house.open("first", lease_s=1), house.open("second", lease_s=1)
    first.start()
    await house.submit(first)
    await until(lambda: house.stages["stage1"].calls)
    second.start()
    await asyncio.sleep(1.5)
    assert await first.alive("a", 1) > 0
    assert len(house.stages["stage1"].calls) == 1, "nobody else has claimed it"


async def test_a_draining_room_finishes_its_jobs_and_takes_no_more(house):
    release = asyncio.Event()

    class Slow(ScriptedStage):
        def __call__(self, order: Any, *inputs: Any) -> Any:
            stream = super().__call__(order, *inputs)
            items = stream._items

            async def held() -> AsyncIterator[Any]:
                async for item in items():
                    yield item
                    await release.wait()

            stream._items = held  # type: ignore[method-assign]
            return stream

    house.stages["stage1"] = Slow(run_of("stage1", multiview_result()))
    room = house.open()
    room.start()
    await house.submit(room)
    await until(lambda: house.stages["stage1"].calls)
    draining = asyncio.create_task(room.drain(30))
    await asyncio.sleep(0.05)
    with pytest.raises(ServiceError) as refused:
        await house.submit(room, "b")
    assert refused.value.code == "shutting_down"
    room.check()
    release.set()
    await asyncio.wait_for(draining, 10)
    view = await room.get("a")
    assert (view.status, view.attempt) == (JobStatus.SUCCEEDED, 1)


async def test_a_job_that_outlasts_the_drain_is_given_back(house):
    house.stages["stage1"].scripts = [[*BEGUN, HANG], run_of("stage1", multiview_result())]
    first = house.open("first")
    first.start()
    await house.submit(first)
    await until(lambda: house.stages["stage1"].calls)
    await first.drain(0.1)
    assert (await first.get("a")).status is JobStatus.QUEUED
    second = house.open("second")
    second.start()
    assert (await asyncio.wait_for(kinds(second), 10))[-1] == "result"


async def test_a_loop_that_ends_is_a_sick_room(house):
    room = house.open()
    room.start()
    room.check()
    room._loops[0].cancel()
    await asyncio.sleep(0.05)
    with pytest.raises(RuntimeError, match="loop"):
        room.check()


async def test_the_state_tells_stages_counts_and_times(house):
    room = house.open()
    room.start()
    await room.heartbeat(Heartbeat("stage1", "r1", "cpu", "random:small", {}, busy=False))
    await room.heartbeat(Heartbeat("stage2", "r2", "cpu", "x", {}, False, reason="no kaolin"))
    state = await room.state()
    assert (state.stages["stage1"].state, state.stages["stage2"].state) == ("up", "idle")
    assert set(state.stages) == {"stage1", "stage2"}
    assert state.mode is Mode.OFFICIAL
    assert state.seconds_by_stage == {}


async def test_measured_times_become_estimates(house, monkeypatch):
    monkeypatch.setattr(service_module, "MEDIANS_KEPT_S", 0.0)
    room = house.open()
    room.start()
    await house.submit(room)
    await asyncio.wait_for(kinds(room), 10)
    assert (await room.state()).seconds_by_stage == {
        "preprocess": 2.5,
        "stage1": 2.5,
        "stage2": 2.5,
    }


async def test_a_full_queue_says_when_to_come_back(house):
    house.stages["stage1"].scripts = [[*BEGUN, HANG]]
    room = house.open(runner_concurrency=1, max_queued_jobs=1)
    room.start()
    await house.submit(room, "a")
    await until(lambda: house.stages["stage1"].calls)
    await house.submit(room, "b")
    with pytest.raises(ServiceError) as refused:
        await house.submit(room, "c")
    assert refused.value.code == "queue_full"
    assert refused.value.detail["retry_after"] >= 1
