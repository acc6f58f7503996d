"""serve_app/cli/serve.py: every flag of unified_api.md becomes a setting; what can not start."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

import pytest

from deployments.contracts import Mode
from serve_app.cli import backends, main
from serve_app.cli.serve import add_arguments, last_error, settings_from
from serve_app.settings import AllArgs


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def settings(*words: str) -> AllArgs:
    return settings_from(parsed(*words))


def test_the_plain_command_line_is_the_documents_config() -> None:
    plain = settings()
    assert plain.mode is Mode.OFFICIAL
    assert (plain.stage1_steps, plain.stage2_steps) == (50, 25)
    assert plain.require_kaolin is True
    assert (parsed().host, parsed().port) == ("0.0.0.0", 8000)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--stage1-only", {"mode": Mode.STAGE1_ONLY}),
        ("--graceful-fallback", {"mode": Mode.GRACEFUL_FALLBACK, "on_missing": "idle"}),
        ("--stage1-steps=75 --stage2-steps=35", {"stage1_steps": 75, "stage2_steps": 35}),
        ("--stage1-steps=30 --stage2-steps=15", {"stage1_steps": 30, "stage2_steps": 15}),
        ("--attn-backend xformers", {"attn_backend": "xformers"}),
        ("--attn-backend flash-attn", {"attn_backend": "flash-attn"}),
        ("--attn-backend sdpa", {"attn_backend": "sdpa"}),
        ("--checkpoint random:small --device cpu", {"checkpoint": "random:small", "device": "cpu"}),
        ("--no-kaolin", {"require_kaolin": False}),
        ("--require-kaolin", {"require_kaolin": True}),
    ],
)
def test_flags_are_settings(line: str, expected: dict[str, object]) -> None:
    made = settings(*line.split())
    assert {name: getattr(made, name) for name in expected} == expected


def test_host_and_port() -> None:
    given = parsed("--graceful-fallback", "--stage1-steps=75", "--port=8080", "--host", "127.0.0.1")
    assert (given.host, given.port, given.stage1_steps) == ("127.0.0.1", 8080, 75)


@pytest.mark.parametrize(
    "line",
    [
        "--stage1-only --graceful-fallback",
        "--require-kaolin --no-kaolin",
        "--stage1-steps=29",
        "--stage1-steps=101",
        "--stage2-steps=14",
        "--stage2-steps=41",
        "--stage2-steps=many",
        "--attn-backend magic",
        "--port 0",
        "--port 65536",
    ],
)
def test_refusals(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(*line.split())
    error = capsys.readouterr().err
    if "steps" in line:
        assert "from 30 to 100" in error or "from 15 to 40" in error


def test_data_keeps_results_and_jobs_together(tmp_path: Path) -> None:
    made = settings("--data", str(tmp_path))
    assert made.storage_url == str(tmp_path / "tmp_api_jobs")
    assert made.database_url == f"sqlite:///{tmp_path}/synchuman_data/jobs.db"


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCHUMAN_MODE", "graceful-fallback")
    monkeypatch.setenv("SYNCHUMAN_STAGE1_STEPS", "60")
    assert settings().mode is Mode.GRACEFUL_FALLBACK
    assert settings("--stage1-only", "--stage1-steps", "70").stage1_steps == 70
    assert settings("--stage1-only").mode is Mode.STAGE1_ONLY


def test_ctrl_c_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings().drain_s == 10
    monkeypatch.setenv("SYNCHUMAN_DRAIN_S", "120")
    assert settings().drain_s == 120


MESSAGE = """RuntimeError: Stage 2 required but failed to import: ImportError
Install kaolin: https://github.com/NVIDIAGameWorks/kaolin
Or use --stage1-only flag or --graceful-fallback for fallback mode"""


@pytest.mark.parametrize(
    ("version", "reason"),
    [(None, "not installed"), ("0.1", "placeholder"), ("0.17.0", "too old")],
)
def test_official_without_kaolin_fails_with_the_documents_words(
    version: str | None,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(backends, "kaolin_version", lambda: version)
    assert main(["serve"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(MESSAGE)
    assert reason in error
    assert "--no-kaolin" in error


def test_a_good_kaolin_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "kaolin_version", lambda: "0.18.0")
    assert backends.kaolin_problem() is None


def test_a_taken_port_is_told_before_anything_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--no-kaolin", "--host", "127.0.0.1", "--port", str(port)]) == 1
    assert f"can not listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_the_reason_is_found_at_the_end_of_a_stack_trace() -> None:
    trace = (
        "The deployment failed to start 3 times in a row. Error:\n"
        "ray::ServeReplica:synchuman:Stage1.initialize() (pid=1)\n"
        '  File "x.py", line 1, in __init__\n'
        "ValueError: an earlier one\n"
        "  During handling\n"
        "deployments.errors.BackendError: attention backend 'xformers' is not installed\n"
        "use sdpa\n"
    )
    assert last_error(trace) == (
        "deployments.errors.BackendError: attention backend 'xformers' is not installed\nuse sdpa"
    )
    assert last_error(" no GPU is free \n") == "no GPU is free"
