"""``synchuman generate --url``: several pictures through a service over real HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from live_service import GLB, LiveService, live_service

from deployments.errors import InputError
from serve_app.cli.arguments import result_folders
from serve_app.cli.batch import NOTE
from serve_app.cli.main import main
from serve_app.jobs.protocol import JobFailure, JobStatus

NO_SUBJECT = JobFailure(code="no_subject", message="nothing is opaque", kind="InputError")


@pytest.fixture
def pictures(tmp_path: Path, portrait: bytes) -> list[str]:
    """Three of them, each with bytes of its own."""
    places = [tmp_path / f"{name}.png" for name in ("anna", "bert", "cleo")]
    for number, place in enumerate(places):
        place.write_bytes(portrait + bytes(number))
    return [str(place) for place in places]


def generate(service: LiveService, pictures: list[str], out: Path, *flags: str) -> int:
    return main(["generate", *pictures, "--url", service.url, "-o", str(out), *flags])


def hold(service: LiveService) -> None:
    """Jobs of this service wait until the test lets them go on."""
    service.do(lambda: setattr(service.jobs.script, "hold", asyncio.Event()))


def test_all_pictures_come_back(
    service: LiveService, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert generate(service, pictures, out, "--seed", "7", "--formats", "obj") == 0
    assert {path.name for path in out.iterdir()} == {"anna", "bert", "cleo"}
    for name in ("anna", "bert", "cleo"):
        assert (out / name / "stage2" / "output.glb").read_bytes() == GLB
        job = json.loads((out / name / "manifest.json").read_text())["job_id"]
        assert json.loads((out / name / NOTE).read_text())["job_id"] == job
    options = [request.options for request in service.jobs.requests]
    assert [(one["seed"], one["formats"]) for one in options] == [(7, ["obj"])] * 3
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.partition(" -> ")[0] for line in lines) == sorted(pictures)
    assert all("14 files in" in line for line in lines)


def test_one_picture_fills_the_folder(
    service: LiveService, pictures: list[str], tmp_path: Path
) -> None:
    assert generate(service, pictures[:1], tmp_path / "out") == 0
    assert (tmp_path / "out" / "stage2" / "output.glb").exists()


def test_the_same_again_sends_and_fetches_nothing(
    service: LiveService, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(service, pictures, tmp_path / "out")
    service.wire.seen.clear()
    assert generate(service, pictures, tmp_path / "out") == 0
    assert service.wire.seen == []
    assert capsys.readouterr().out.count("all files were there") == 3


def test_a_lost_file_is_fetched_and_no_picture_sent_again(
    service: LiveService, pictures: list[str], tmp_path: Path
) -> None:
    generate(service, pictures, tmp_path / "out")
    glb = tmp_path / "out" / "bert" / "stage2" / "output.glb"
    glb.write_bytes(b"half of it")
    assert generate(service, pictures, tmp_path / "out") == 0
    assert glb.read_bytes() == GLB
    assert len(service.jobs.requests) == 3


def test_without_its_notes_the_key_finds_the_jobs(
    service: LiveService, pictures: list[str], tmp_path: Path
) -> None:
    generate(service, pictures, tmp_path / "out")
    assert generate(service, pictures, tmp_path / "elsewhere") == 0
    assert len(service.jobs.requests) == 3


def test_other_options_and_other_pictures_are_other_jobs(
    service: LiveService, pictures: list[str], tmp_path: Path
) -> None:
    generate(service, pictures[:1], tmp_path / "out")
    generate(service, pictures[:1], tmp_path / "out", "--seed", "9")
    Path(pictures[0]).write_bytes(Path(pictures[0]).read_bytes() + b"\0\0\0\0\0")
    generate(service, pictures[:1], tmp_path / "out")
    assert len(service.jobs.requests) == 3


def test_one_that_fails_does_not_stop_the_others_and_is_tried_anew(
    service: LiveService, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "missing.png")
    assert generate(service, [*pictures, missing], tmp_path / "out") == 1
    assert "missing.png" in capsys.readouterr().err

    service.jobs.script.failure = NO_SUBJECT
    assert generate(service, pictures, tmp_path / "out", "--seed", "3") == 1
    assert capsys.readouterr().err.count("nothing is opaque") == 3
    service.jobs.script.failure = None
    assert generate(service, pictures, tmp_path / "out", "--seed", "3") == 0
    assert len(service.jobs.requests) == 9


def test_a_job_that_was_removed_meanwhile_is_made_anew(
    service: LiveService, pictures: list[str], tmp_path: Path
) -> None:
    generate(service, pictures[:1], tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    (job,) = service.jobs.views
    asyncio.run_coroutine_threadsafe(service.jobs.remove(job), service._loop).result(10)
    assert generate(service, pictures[:1], tmp_path / "out") == 0
    assert len(service.jobs.requests) == 2


def test_no_more_than_so_many_at_once(
    service: LiveService, pictures: list[str], tmp_path: Path
) -> None:
    most = 0

    def count(data: bytes) -> None:
        nonlocal most
        views = service.jobs.views.values()
        most = max(most, sum(view.status is JobStatus.RUNNING for view in views))
        time.sleep(0.05)

    service.jobs.script.prepare = count
    assert generate(service, pictures, tmp_path / "out", "--at-once", "1") == 0
    assert most == 1


def test_the_api_key_comes_from_the_environment(
    pictures: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(hashlib.sha256(b"open sesame").hexdigest())
    with live_service(tmp_path / "service", api_keys_file=str(keys)) as service:
        assert generate(service, pictures[:1], tmp_path / "out") == 1
        monkeypatch.setenv("SYNCHUMAN_API_KEY", "open sesame")
        assert generate(service, pictures[:1], tmp_path / "out") == 0


def test_flags_of_the_pipelines_are_refused(
    service: LiveService, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--checkpoint", "official", "--device", "cpu"]
    assert generate(service, pictures, tmp_path / "out", *flags) == 1
    assert "--checkpoint, --device: the service decides this" in capsys.readouterr().err
    assert service.wire.seen == []


@pytest.mark.parametrize("cancel", [False, True])
def test_ctrl_c(service: LiveService, pictures: list[str], tmp_path: Path, cancel: bool) -> None:
    hold(service)
    flags = ["--cancel-on-interrupt"] if cancel else []
    words = ["generate", *pictures, "--url", service.url, "-o", str(tmp_path / "out"), *flags]
    process = subprocess.Popen(
        [sys.executable, "-m", "serve_app", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        # A test run in the background has SIGINT ignored, and children inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 30
    while len(service.wire.requests("GET", "/events")) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 130, error
    assert "interrupted with 3 pictures unfinished" in error
    states = {view.status for view in service.jobs.views.values()}
    assert states == {JobStatus.CANCELLED if cancel else JobStatus.RUNNING}

    service.do(service.jobs.script.hold.set)  # type: ignore[union-attr]
    assert generate(service, pictures, tmp_path / "out") == 0
    assert len(service.jobs.requests) == (6 if cancel else 3)


def test_folders() -> None:
    out = Path("out")
    assert result_folders([Path("a.png")], out) == [out]
    assert result_folders([Path("a.png"), Path("b.png")], out) == [out / "a", out / "b"]
    assert result_folders([Path("a.png"), Path("a.jpg")], out) == [out / "a.png", out / "a.jpg"]
    with pytest.raises(InputError, match=r"two pictures are named a\.png"):
        result_folders([Path("x/a.png"), Path("y/a.png")], out)
