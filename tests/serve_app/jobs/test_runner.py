"""Every way a job can go, with the real store, real storage and scripted stages."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
from typing import Any

import numpy as np
import pytest
from bench import Bench
from PIL import Image
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from scripted import HANG, ScriptedStage, asset, multiview_result, prepared_image, run_of

from deployments.contracts import Mode
from deployments.errors import ServiceError
from deployments.messages import Accepted, Failed, Started, Unavailable
from serve_app.jobs.protocol import JobStatus, StageState
from serve_app.jobs.runner import JobRun
from serve_app.settings import LiveArgs

GRACEFUL, OFFICIAL, STAGE1_ONLY = Mode.GRACEFUL_FALLBACK, Mode.OFFICIAL, Mode.STAGE1_ONLY
LOST = ActorDiedError()
BEGUN = [Accepted("r"), Started()]
OUT_OF_MEMORY = Failed("stage2_failed", "stage2 failed with OutOfMemoryError", retryable=True)
NO_VOXELS = Failed("empty_mesh", "the mesh is empty", retryable=False)


async def test_a_job_that_goes_well(bench: Bench):
    view = await bench.run()

    assert view.status is JobStatus.SUCCEEDED
    assert view.attempt == 1
    assert view.warnings == ("the picture is small",)
    assert (view.stage1.status, view.stage2.status) == ("completed", "completed")
    assert (view.stage1.directory, view.stage2.directory) == ("a/1/stage1", "a/1/stage2")
    expected = {f"stage1/{kind}_{n}.png" for kind in ("color", "normal") for n in range(5)}
    expected |= {"stage1/input.png", "stage2/output.glb", "stage2/output_mesh.ply", "manifest.json"}
    assert set(view.files) == expected
    for place in view.files.values():
        assert bench.storage.exists(place)
    picture = Image.open(io.BytesIO(bench.storage.read(view.files["stage1/color_3.png"])))
    assert np.array_equal(np.asarray(picture), multiview_result().color[3])


async def test_whoever_waited_finds_the_folder_that_the_answer_names(bench: Bench):
    room, named = bench.room(), []

    def look(job: str) -> None:
        if bench.store.get(job).status.final:
            named.append(bench.storage.stage_location(job, "stage2", "a/1/stage2"))

    bench.storage.write("a/input.png", b"picture")
    bench.submit("a", mode=OFFICIAL, max_attempts=3)
    claim = bench.claims.claim("runner", 1000)
    await JobRun(dataclasses.replace(room, changed=look), claim).run()
    assert [place.endswith("/a/stage2_output") for place in named] == [True]


async def test_the_manifest_tells_where_the_result_comes_from(bench: Bench):
    view = await bench.run()
    manifest = json.loads(bench.storage.read(view.files["manifest.json"]))
    assert manifest["checkpoint"] == "random:small"
    assert manifest["backends"] == {"attention": "sdpa"}
    assert manifest["stages"]["stage2"]["statistics"]["texture_size"] == 256
    assert manifest["stages"]["stage1"]["timings"] == {"sampling": 1.5}
    assert set(manifest["files"]) == set(view.files) - {"manifest.json"}
    glb = manifest["files"]["stage2/output.glb"]
    assert glb["sha256"] == bench.storage.sha256(view.files["stage2/output.glb"])


async def test_stages_get_their_order_and_their_inputs(bench: Bench):
    await bench.run()
    order, (prepared, multiview, options) = bench.stage2.calls[0]
    assert (order.job, order.fence, order.lease_s) == ("a", 1, 7.0)
    assert np.array_equal(multiview.voxels, multiview_result().voxels)
    assert prepared.alpha_coverage == 0.5
    assert options.stage2_steps == 25


async def test_a_registry_that_does_not_answer_for_a_moment_fails_no_job(bench: Bench):
    room, asked = bench.room(), []

    async def away_at_first(stage: str) -> StageState:
        asked.append(stage)
        if len(asked) < 3:
            raise ServiceError("the job database does not answer", code="store_unavailable")
        return await room.state_of(stage)

    bench.storage.write("a/input.png", b"picture")
    bench.submit("a", mode=OFFICIAL, max_attempts=3)
    claim = bench.claims.claim("runner", 1000)
    await JobRun(dataclasses.replace(room, state_of=away_at_first), claim).run()
    assert bench.store.get("a").status is JobStatus.SUCCEEDED


async def test_the_events_of_a_job(bench: Bench):
    await bench.run()
    story = [(kind, body.get("stage"), body.get("state")) for kind, body in bench.events()]
    assert story[:-1] == [
        ("queued", None, None),
        ("stage", "preprocess", "waiting"),
        ("stage", "preprocess", "running"),
        ("stage", "stage1", "waiting"),
        ("started", "stage1", None),
        ("stage", "stage1", "running"),
        ("step", "stage1", None),
        ("step", "stage1", None),
        ("stage", "stage1", "completed"),
        ("stage", "stage2", "waiting"),
        ("stage", "stage2", "running"),
        ("step", "stage2", None),
        ("step", "stage2", None),
        ("stage", "stage2", "completed"),
    ]
    assert bench.events()[-1] == ("result", {"stage1": "completed", "stage2": "completed"})


async def test_stage1_only_never_asks_stage2_and_hands_over_a_preview(bench: Bench):
    view = await bench.run(STAGE1_ONLY)
    assert view.status is JobStatus.SUCCEEDED
    assert bench.stage2.calls == []
    assert view.stage2.status == "skipped"
    assert bench.storage.read(view.files["stage1/preview.glb"]) == b"preview-bytes"
    assert "preview.glb" in view.stage1.files


async def test_a_missing_preview_is_a_warning(bench: Bench):
    bench.preview.scripts = [[*BEGUN, Failed("preview_failed", "no surface", True)]]
    view = await bench.run(STAGE1_ONLY)
    assert view.status is JobStatus.SUCCEEDED
    assert "stage1/preview.glb" not in view.files
    assert view.warnings[-1] == "there is no preview.glb: no surface"


# Stage 2 can not run: (what makes it so, states of the registry, its script)
ABSENT = {"stage2": StageState(state="absent", reason="stage2 is not deployed")}
IDLE = {"stage2": StageState(state="idle", reason="kaolin is missing")}
STARTING = {"stage2": StageState(state="starting", reason="stage2 is starting")}
CAN_NOT_RUN = [
    pytest.param(ABSENT, [HANG], "stage2 is not deployed", id="absent"),
    pytest.param(IDLE, [HANG], "kaolin is missing", id="idle"),
    pytest.param(STARTING, [HANG], "stage2 is starting (waited 0 s)", id="starting too long"),
    pytest.param({}, [HANG], "all replicas of stage2 are busy (waited 0 s)", id="busy too long"),
    pytest.param(
        {}, [Unavailable("no kaolin here")], "no kaolin here (waited 0 s)", id="all say no"
    ),
    pytest.param(
        {}, [DeploymentUnavailableError("d")], "its deployment failed or was removed", id="failed"
    ),
    pytest.param({}, [BackPressureError(1, 1)], "too many calls are queued for it", id="full"),
    pytest.param({}, [*BEGUN, LOST], "a replica of stage2 died", id="dies each time"),
]


@pytest.mark.parametrize(("states", "script", "reason"), CAN_NOT_RUN)
async def test_graceful_falls_back_with_the_reason(bench: Bench, states, script, reason):
    bench.states, bench.stage2.scripts = states, [script]
    view = await bench.run(GRACEFUL)
    assert view.status is JobStatus.SUCCEEDED
    assert view.stage1.status == "completed"
    assert (view.stage2.status, view.stage2.reason) == ("skipped", reason)
    assert "stage1/preview.glb" in view.files
    assert "stage2/output.glb" not in view.files
    assert len(bench.stage1.calls) == 1, "Stage 1 is never repeated for Stage 2's faults"


@pytest.mark.parametrize(("states", "script", "reason"), CAN_NOT_RUN)
async def test_official_fails_with_the_reason(bench: Bench, states, script, reason):
    bench.states, bench.stage2.scripts = states, [script]
    view = await bench.run(OFFICIAL)
    assert view.status is JobStatus.FAILED
    assert view.failure.code == "stage2_unavailable"
    assert view.failure.kind == "StageUnavailable"
    assert view.failure.detail["reason"] == reason
    assert len(bench.stage1.calls) == 1


async def test_a_replica_that_can_not_does_not_stand_for_those_that_can(bench: Bench):
    bench.live = bench.live.model_copy(update={"queue_wait_s": 5.0})
    bench.stage2.scripts = [[Unavailable("no kaolin here")], run_of("stage2", asset())]
    assert (await bench.run(GRACEFUL)).stage2.status == "completed"


async def test_a_service_without_stage2(bench: Bench):
    bench.stage2 = None
    assert (await bench.run(GRACEFUL)).stage2.reason == "this service was started without Stage 2"
    assert (await bench.run(OFFICIAL, "b")).failure.code == "stage2_unavailable"


async def test_stage2_that_raises_falls_back_as_failed_or_fails_the_job(bench: Bench):
    bench.stage2.scripts = [[*BEGUN, NO_VOXELS]]
    view = await bench.run(GRACEFUL)
    assert (view.stage2.status, view.stage2.reason) == ("failed", "the mesh is empty")
    view = await bench.run(OFFICIAL, "b")
    assert (view.failure.code, view.failure.kind) == ("empty_mesh", "GenerationError")
    assert len(bench.stage2.calls) == 2, "a considered verdict is not asked for again"


@pytest.mark.parametrize("mode", [OFFICIAL, GRACEFUL])
@pytest.mark.parametrize("fault", [LOST, ActorUnavailableError("gone", None), OUT_OF_MEMORY])
async def test_a_stage2_lost_once_costs_time_and_not_the_answer(bench: Bench, mode, fault):
    bench.stage2.scripts = [[*BEGUN, fault], run_of("stage2", asset())]
    view = await bench.run(mode)
    assert (view.status, view.stage2.status) == (JobStatus.SUCCEEDED, "completed")
    assert view.attempt == 2
    assert bench.stage2.fences == [1, 2]
    assert len(bench.stage1.calls) == 1
    assert view.stage1.directory == "a/2/stage1"
    assert all(place.startswith("a/2/") for place in view.files.values())
    assert "retry" in bench.kinds()


async def test_a_stage1_lost_once_costs_time_and_not_the_answer(bench: Bench):
    bench.stage1.scripts = [
        [*run_of("stage1", None)[:3], LOST],
        run_of("stage1", multiview_result()),
    ]
    view = await bench.run()
    assert (view.status, view.attempt) == (JobStatus.SUCCEEDED, 2)
    assert bench.stage1.fences == [1, 2]
    retry = next(body for kind, body in bench.events() if kind == "retry")
    assert retry == {"stage": "stage1", "cause": "a replica of stage1 died", "attempt": 1}


async def test_attempts_end(bench: Bench):
    bench.stage1.scripts = [[*BEGUN, LOST]]
    view = await bench.run(max_attempts=2)
    assert (view.status, view.failure.code, view.attempt) == (JobStatus.FAILED, "stage1_failed", 2)
    assert len(bench.stage1.calls) == 2


async def test_a_replica_that_dies_before_it_began_costs_no_attempt(bench: Bench):
    bench.stage1.scripts = [[LOST], [Accepted("r"), LOST], run_of("stage1", multiview_result())]
    view = await bench.run()
    assert (view.status, view.attempt) == (JobStatus.SUCCEEDED, 1)


async def test_a_restarting_replica_is_waited_for(bench: Bench):
    restarting = Unavailable("out of memory", temporary=True)
    bench.stage1.scripts = [
        [restarting],
        [Accepted("r"), restarting],
        run_of("stage1", multiview_result()),
    ]
    assert (await bench.run()).status is JobStatus.SUCCEEDED


async def test_a_stage1_that_never_comes_fails_the_job_in_every_mode(bench: Bench):
    bench.states = {"stage1": StageState(state="failed", reason="no weights")}
    view = await bench.run(GRACEFUL)
    assert view.failure.code == "stage1_unavailable"
    assert "no weights" in view.failure.message


async def test_a_stage_that_disappears_while_a_job_waits_is_noticed(bench: Bench):
    bench.live = LiveArgs(queue_wait_s=900)
    bench.stage2.scripts = [[HANG]]
    running = asyncio.create_task(bench.run(GRACEFUL))
    while not bench.stage2.calls:
        await asyncio.sleep(0.005)
    bench.states = ABSENT
    view = await asyncio.wait_for(running, 5)
    assert view.stage2.reason == "stage2 is not deployed"


async def test_a_picture_that_can_not_be_used(bench: Bench):
    refusal = Failed("no_subject", "there is nobody in it", False, kind="InputError")
    bench.preprocess.scripts = [[*BEGUN, refusal]]
    view = await bench.run()
    assert (view.failure.code, view.failure.kind) == ("no_subject", "InputError")
    assert bench.stage1.calls == []
    assert view.attempt == 0


async def test_preparation_that_dies_is_tried_again(bench: Bench):
    bench.preprocess.scripts = [[*BEGUN, LOST], run_of("preprocess", prepared_image(), 0)]
    assert (await bench.run()).status is JobStatus.SUCCEEDED


async def test_preparation_that_always_dies_ends_the_job(bench: Bench):
    bench.preprocess.scripts = [[*BEGUN, LOST]]
    assert (await bench.run()).failure.code == "preprocess_unavailable"
    assert len(bench.preprocess.calls) == 3


async def test_another_runner_goes_on_from_the_stored_stage1(bench: Bench, clock):
    bench.stage2.scripts = [[*BEGUN, HANG]]
    running = asyncio.create_task(bench.run())
    while not bench.stage2.calls:
        await asyncio.sleep(0.005)
    running.cancel()  # as good as dead: nothing is released
    clock.now += 1001
    bench.stage2.scripts = [run_of("stage2", asset())]
    view = await bench.go_on()
    assert (view.status, view.attempt) == (JobStatus.SUCCEEDED, 2)
    assert len(bench.stage1.calls) == 1
    _, (_, multiview, _) = bench.stage2.calls[-1]
    stored = multiview_result()
    assert np.array_equal(multiview.color, stored.color)
    assert np.array_equal(multiview.voxels, stored.voxels)
    assert (multiview.grid, multiview.timings) == (stored.grid, stored.timings)
    assert all(place.startswith("a/2/") for place in view.files.values())


async def test_a_damaged_stage1_result_is_made_again(bench: Bench, clock, tmp_path):
    bench.stage2.scripts = [[*BEGUN, HANG]]
    running = asyncio.create_task(bench.run())
    while not bench.stage2.calls:
        await asyncio.sleep(0.005)
    running.cancel()
    clock.now += 1001
    (stored,) = tmp_path.rglob("stage1.npz")
    stored.write_bytes(stored.read_bytes()[:-10])
    bench.stage2.scripts = [run_of("stage2", asset())]
    assert (await bench.go_on()).status is JobStatus.SUCCEEDED
    assert len(bench.stage1.calls) == 2


async def test_a_damaged_picture_ends_the_job(bench: Bench, tmp_path):
    bench.storage.write("a/input.png", b"picture")
    bench.submit("a")
    (picture,) = tmp_path.rglob("input.png")
    picture.write_bytes(b"something else")
    view = await bench.go_on()
    assert (view.status, view.failure.code) == (JobStatus.FAILED, "artifact_damaged")
    assert bench.preprocess.calls == []


async def test_a_job_that_kills_its_runner_each_time_is_given_up(bench: Bench, clock):
    bench.stage1.scripts = [[*BEGUN, HANG]]
    bench.storage.write("a/input.png", b"picture")
    bench.submit("a", max_attempts=2)
    for calls in (1, 2):
        running = asyncio.create_task(bench.go_on())
        while len(bench.stage1.calls) < calls:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        running.cancel()
        clock.now += 1001
    view = await bench.go_on()
    assert (view.status, view.failure.code) == (JobStatus.FAILED, "stage1_failed")
    assert "never ended" in view.failure.message


async def test_cancellation_is_obeyed_at_the_next_step(bench: Bench):
    steps = run_of("stage1", multiview_result(), steps=50)
    gate = asyncio.Event()

    class Gated(ScriptedStage):
        def __call__(self, order: Any, *inputs: Any) -> Any:
            gate.set()
            return super().__call__(order, *inputs)

    bench.stage1 = Gated(steps)
    running = asyncio.create_task(bench.run())
    await gate.wait()
    bench.store.cancel("a")
    view = await running
    assert view.status is JobStatus.CANCELLED
    assert bench.kinds()[-1] == "cancelled"
    assert view.step < 50
    assert bench.stage1.cancelled == 1
    assert bench.stage2.calls == []


async def test_a_runner_that_lost_its_job_leaves_it_alone(bench: Bench, clock):
    taken = asyncio.Event()

    class Stolen(ScriptedStage):
        def __call__(self, order: Any, *inputs: Any) -> Any:
            clock.now += 1001
            assert bench.claims.claim("thief", 1000) is not None
            taken.set()
            return super().__call__(order, *inputs)

    bench.stage1 = Stolen(run_of("stage1", multiview_result()))
    view = await bench.run()
    assert taken.is_set()
    assert view.status is JobStatus.RUNNING
    assert view.attempt == 0
    assert bench.stage1.cancelled == 1


async def test_a_stage_that_gave_up_a_job_which_is_still_on_is_asked_again(bench: Bench):
    gave_up = [*BEGUN, Failed("cancelled", "the job was cancelled", False)]
    bench.stage1.scripts = [gave_up, run_of("stage1", multiview_result())]
    view = await bench.run()
    assert (view.status, view.attempt) == (JobStatus.SUCCEEDED, 2)


async def test_progress_is_in_the_row(bench: Bench):
    seen: list[tuple[str | None, int, int]] = []
    note = bench.claims.note

    def spy(*args: Any, **values: Any) -> bool:
        result = note(*args, **values)
        view = bench.store.get("a")
        seen.append((view.stage, view.step, view.steps))
        return result

    bench.claims.note = spy  # type: ignore[method-assign]
    await bench.run()
    assert ("stage1", 1, 2) in seen
    assert ("stage2", 2, 2) in seen


async def test_an_unexpected_failure_does_not_leak_into_the_answer(bench: Bench):
    bench.stage1.scripts = [[*BEGUN, ZeroDivisionError("secret path /root")]]
    view = await bench.run()
    assert view.failure.code == "internal_error"
    assert "secret" not in view.failure.message
    assert bench.stage1.cancelled == 1
