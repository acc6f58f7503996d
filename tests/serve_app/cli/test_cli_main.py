"""serve_app/cli/main.py: commands, exit statuses, messages without stack traces."""

from __future__ import annotations

import runpy
import subprocess
import sys

import pytest

from serve_app.cli import main


def test_every_command_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("serve", "generate", "models", "doctor", "demo"):
        with pytest.raises(SystemExit) as left:
            main([command, "--help"])
        assert left.value.code == 0
        assert f"synchuman {command}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["fly"], ["serve", "--wings"]])
def test_a_wrong_command_line_is_status_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    assert "usage: synchuman" in capsys.readouterr().err


def test_a_foreseen_failure_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    assert main(["models", "verify", f"{tmp_path}/nowhere"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("synchuman models: ")
    assert "Traceback" not in error


def test_a_bad_environment_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNCHUMAN_STAGE2_STEPS", "99")
    assert main(["serve", "--stage1-only"]) == 2
    assert "stage2_steps" in capsys.readouterr().err


def test_python_m_serves_without_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, expected in (
        (["--help"], "usage: synchuman serve"),
        (["models", "--help"], "usage: synchuman models"),
    ):
        monkeypatch.setattr(sys, "argv", ["serve_app", *words])
        with pytest.raises(SystemExit):
            runpy.run_module("serve_app", run_name="__main__")
        assert expected in capsys.readouterr().out


def test_help_and_refusals_load_neither_torch_nor_ray() -> None:
    program = (
        "import sys\n"
        "from serve_app.cli import main\n"
        "assert main(['serve']) == 1\n"  # kaolin is required and missing
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
