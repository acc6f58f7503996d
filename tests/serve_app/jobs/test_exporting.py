"""Exports from their submission to their files, with the real store and storage."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from bench import Bench
from ray.exceptions import ActorDiedError
from scripted import multiview_result, surface

from deployments.contracts import GenerationOptions, Mode
from deployments.errors import ServiceError
from deployments.messages import Accepted, Failed, Started, Unavailable
from serve_app.jobs.protocol import JobKind, JobStatus, StageState
from serve_app.jobs.sweeper import Sweeper
from serve_app.options import options_as_json

SMALL = options_as_json(GenerationOptions(texture_size=512))


def order(bench: Bench, job: str = "x", parent: str = "a", **request: Any) -> Any:
    values = {"kind": JobKind.EXPORT, "parent_id": parent, "input_path": "", "options": SMALL}
    return bench.submit(job, **{**values, **request})


async def test_an_export_is_made_from_what_is_stored(bench: Bench):
    parent = await bench.run()
    bench.storage.delete("a/input.png")
    assert order(bench).parent_id == "a"
    view = await bench.go_on("x")

    assert (view.status, view.attempt, view.kind) == (JobStatus.SUCCEEDED, 1, JobKind.EXPORT)
    assert set(view.files) == {"stage2/output.glb", "stage2/output_mesh.ply", "manifest.json"}
    assert (view.stage1, view.stage2.directory) == (None, "x/1/stage2")
    [(_, (stored, multiview, options))] = bench.export.calls
    for field in dataclasses.fields(stored):
        assert np.array_equal(getattr(stored, field.name), getattr(surface(), field.name))
    assert np.array_equal(multiview.color, multiview_result().color)
    assert options.texture_size == 512
    manifest = json.loads(bench.storage.read(view.files["manifest.json"]))
    of_parent = json.loads(bench.storage.read(parent.files["manifest.json"]))
    for same in ("checkpoint", "backends", "input_sha256"):
        assert manifest[same] == of_parent[same]
    assert manifest["parent_id"] == "a"
    assert manifest["options"]["texture_size"] == 512
    assert [len(stage.calls) for stage in (bench.preprocess, bench.stage1, bench.stage2)] == [1] * 3


async def test_a_parent_without_stage_2_gives_another_preview(bench: Bench):
    await bench.run(Mode.STAGE1_ONLY)
    order(bench)
    view = await bench.go_on("x")
    assert set(view.files) == {"stage1/preview.glb", "manifest.json"}
    assert bench.preview.calls[-1][1][1].texture_size == 512
    assert bench.export.calls == []


async def test_an_export_of_an_export_goes_back_to_the_results(bench: Bench):
    await bench.run()
    order(bench)
    await bench.go_on("x")
    assert order(bench, "y", "x").parent_id == "a"
    assert (await bench.go_on("y")).status is JobStatus.SUCCEEDED


async def test_an_export_outlives_its_parent(bench: Bench):
    await bench.run()
    order(bench)
    await bench.go_on("x")
    bench.store.remove("a")
    assert bench.store.get("x").status is JobStatus.SUCCEEDED
    for parent in "ax":
        with pytest.raises(ServiceError) as caught:
            order(bench, "z", parent)
        assert caught.value.code == "job_expired"


async def test_files_stay_while_an_export_needs_them(bench: Bench, database, clock):
    await bench.run()
    order(bench)
    bench.store.remove("a")
    sweeper = Sweeper(database, bench.storage, tombstone_s=lambda: 1000, clock=clock)
    assert sweeper.sweep() == 0
    assert (await bench.go_on("x")).status is JobStatus.SUCCEEDED
    assert sweeper.sweep() == 1
    assert bench.storage.list("a") == []


async def test_files_that_went_all_the_same_are_a_failure_that_says_so(bench: Bench):
    await bench.run()
    order(bench)
    bench.storage.delete("a")
    view = await bench.go_on("x")
    assert (view.status, view.failure.code) == (JobStatus.FAILED, "job_expired")


async def test_a_damaged_surface_is_not_made_into_something(bench: Bench):
    await bench.run()
    order(bench)
    bench.storage.write("a/1/surface.npz", b"no archive")
    view = await bench.go_on("x")
    assert (view.status, view.failure.code) == (JobStatus.FAILED, "artifact_damaged")
    assert bench.export.calls == []


@pytest.mark.parametrize("status", [None, JobStatus.FAILED, JobStatus.CANCELLED])
async def test_only_a_job_that_succeeded_has_exports(bench: Bench, status):
    bench.submit("a")
    claim = bench.claims.claim("r", 10)
    if status is not None:
        bench.claims.finish("a", claim.fence, status, (status.value, {}))
    with pytest.raises(ServiceError) as caught:
        order(bench)
    assert caught.value.code == ("not_finished" if status is None else "no_result")


async def test_a_job_whose_surface_was_not_stored_has_none(bench: Bench):
    bench.live = bench.live.model_copy(update={"exports": False})
    view = await bench.run()
    assert [path for path in bench.storage.list("a") if "surface" in path] == []
    assert view.status is JobStatus.SUCCEEDED
    with pytest.raises(ServiceError) as caught:
        order(bench)
    assert caught.value.code == "not_exportable"


async def test_others_can_not_export_a_job(bench: Bench):
    await bench.run(owner="o")
    with pytest.raises(ServiceError) as caught:
        order(bench, owner="p")
    assert caught.value.code == "not_found"


async def test_a_lost_export_is_tried_again(bench: Bench):
    await bench.run()
    order(bench)
    bench.export.scripts.insert(0, [Accepted("r"), Started(), ActorDiedError()])
    view = await bench.go_on("x")
    assert (view.status, view.attempt) == (JobStatus.SUCCEEDED, 2)
    assert bench.export.fences == [1, 2]
    assert set(view.files.values()) >= {"x/2/stage2/output.glb"}


async def test_an_export_that_can_not_be_made_fails(bench: Bench):
    await bench.run()
    order(bench)
    bench.export.scripts = [[Accepted("r"), Started(), Failed("empty_mesh", "nothing", False)]]
    assert (await bench.go_on("x")).failure.code == "empty_mesh"
    order(bench, "y")
    bench.export.scripts = [[Unavailable("no memory")]]
    bench.states["export"] = StageState(state="idle", reason="no memory")
    assert (await bench.go_on("y")).failure.code == "export_unavailable"


async def test_a_picture_that_is_not_kept_is_not_in_the_result_either(bench: Bench):
    view = await bench.run(terms={"keep_input": False})
    assert "stage1/input.png" not in view.files
    assert "stage1/color_0.png" in view.files
    assert [path for path in bench.storage.list("a/1") if "input" in path] == []
