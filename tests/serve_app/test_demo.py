"""serve_app/demo.py and contact_sheet.py, as far as they need no service."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from deployments.errors import ServiceError
from serve_app import demo
from serve_app.config_check import check_document
from serve_app.contact_sheet import CELL, GAP, contact_sheet

ROOT = Path(__file__).parents[2]


def test_the_configuration_gets_a_port_and_folders_of_its_own(tmp_path: Path) -> None:
    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    adapted = demo.adapt(document, 8123, tmp_path)
    assert adapted["http_options"]["port"] == 8123
    front = next(part for part in adapted["applications"] if part["name"] == "front")
    assert front["args"]["storage_url"] == str(tmp_path / "tmp_api_jobs")
    assert front["args"]["database_url"] == f"sqlite:///{tmp_path}/jobs.db"
    stages = [part["args"] for part in adapted["applications"] if part["name"] != "front"]
    assert all("storage_url" not in arguments for arguments in stages)
    assert document == yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    assert check_document(adapted) == []


def test_the_sample_is_a_picture_of_its_own() -> None:
    with Image.open(demo.SAMPLE) as picture:
        assert picture.mode == "RGBA"
        assert picture.getchannel("A").getextrema() == (0, 255)


def test_a_missing_configuration_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="Run the demo in the repository"):
        demo.run_demo(config=tmp_path / "absent.yaml", out=tmp_path / "out")


def test_only_the_demos_own_files_are_taken_away(tmp_path: Path) -> None:
    for name in ("answer.json", "mine.txt", "stage1/color_0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    demo._emptied(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_service_that_ends_at_once_is_told_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    log.write_text("line\n" * 100 + "the reason\n")
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    process.wait()
    with pytest.raises(ServiceError, match=r"status 3(.|\n)*the reason"):
        demo._wait_until_healthy("http://127.0.0.1:1", process, log)


def test_an_application_that_failed_is_not_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    log.write_text("Application 'stage1' is DEPLOY_FAILED: no such checkpoint")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with pytest.raises(ServiceError, match="no such checkpoint"):
            demo._wait_until_healthy("http://127.0.0.1:1", process, log)
    finally:
        process.kill()
        process.wait()


def as_in_a_background_job() -> None:
    """Shells start these with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.parametrize("start", [as_in_a_background_job, lambda: None])
@pytest.mark.parametrize("stubborn", [False, True])
def test_what_was_started_is_stopped(
    start: Callable[[], None], stubborn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "STOP_WITHIN_S", 2.0 if stubborn else 60.0)
    ignoring = "signal.signal(signal.SIGINT, signal.SIG_IGN);" if stubborn else ""
    code = f"import signal, time; {ignoring} print(1, flush=True); time.sleep(60)"
    before = signal.getsignal(signal.SIGINT)
    start()
    try:
        with (tmp_path / "log").open("wb") as log:
            process = demo.launch([sys.executable, "-c", code], log)
    finally:
        signal.signal(signal.SIGINT, before)
    while not (tmp_path / "log").read_bytes():
        assert process.poll() is None
        time.sleep(0.02)
    demo.stop(process)
    assert process.returncode == (-signal.SIGKILL if stubborn else -signal.SIGINT)


def test_the_contact_sheet_shows_every_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deployments.stage2 import render

    seen: list[bytes] = []

    def four_sides(glb: bytes, azimuths: tuple[float, ...], size: int) -> np.ndarray:
        seen.append(glb)
        return np.full((len(azimuths), size, size, 3), 200, np.uint8)

    monkeypatch.setattr(render, "render_glb", four_sides)
    (tmp_path / "stage1").mkdir()
    for view in range(5):
        for kind, shade in (("color", 10), ("normal", 100)):
            picture = Image.new("RGB", (64, 64), (shade + view, 0, 0))
            picture.save(tmp_path / "stage1" / f"{kind}_{view}.png")
    (tmp_path / "stage1" / "preview.glb").write_bytes(b"preview")
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet(tmp_path))))
    step = CELL + GAP
    assert sheet.shape == (3 * step + GAP, 5 * step + GAP, 3)
    middles = sheet[GAP + CELL // 2 :: step, GAP + CELL // 2 :: step, 0]
    assert middles[:2].tolist() == [[10, 11, 12, 13, 14], [100, 101, 102, 103, 104]]
    assert middles[2].tolist() == [200] * 4 + [255]
    (tmp_path / "stage2").mkdir()
    (tmp_path / "stage2" / "output.glb").write_bytes(b"full")
    contact_sheet(tmp_path)
    assert seen == [b"preview", b"full"]
