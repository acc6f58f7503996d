"""``python -m serve_app``: one line says where it listens, Ctrl-C leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

pytestmark = pytest.mark.service

ROOT = Path(__file__).parents[2]
START_WITHIN_S = 180.0
STOP_WITHIN_S = 60.0


def as_in_a_terminal() -> None:
    """Shells start background jobs with SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def command(tmp_path: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a process group of its own, which is what Ctrl-C reaches."""
    flags = ["--stage1-only", "--checkpoint", "random:small", "--device", "cpu"]
    place = ["--host", "127.0.0.1", "--port", str(port), "--data", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve_app", *flags, *place],
            stdout=out,
            stderr=err,
            cwd=tmp_path,
            env=environment,
            start_new_session=True,
            preexec_fn=as_in_a_terminal,
        )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def others_of(session: int) -> list[str]:
    """Command lines of the processes that share a session."""
    found = subprocess.run(
        ["ps", "-o", "args=", "--sid", str(session)], capture_output=True, text=True, check=False
    )
    return found.stdout.splitlines()


def test_ctrl_c_stops_everything_and_says_no_more(
    command: subprocess.Popen[bytes], tmp_path: Path, port: int
) -> None:
    line = f"SyncHuman listens on http://127.0.0.1:{port} in mode stage1-only\n"
    deadline = time.monotonic() + START_WITHIN_S
    while (tmp_path / "out").read_text() != line:
        assert command.poll() is None, (tmp_path / "err").read_text()
        assert time.monotonic() < deadline, (tmp_path / "err").read_text()
        time.sleep(0.2)
    assert httpx2.get(f"http://127.0.0.1:{port}/health").json()["mode"] == "stage1-only"

    os.killpg(command.pid, signal.SIGINT)
    assert command.wait(STOP_WITHIN_S) == 0
    assert (tmp_path / "out").read_text() == line
    assert "Traceback" not in (tmp_path / "err").read_text()
    deadline = time.monotonic() + 10
    while (left := others_of(command.pid)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
