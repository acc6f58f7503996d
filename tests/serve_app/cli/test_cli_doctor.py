"""serve_app/cli/doctor.py and models.py: what is here, what is wrong, the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.checkpoints import inventory
from deployments.checkpoints.inventory import Listing
from serve_app import tracing
from serve_app.cli import doctor, main
from serve_app.cli.doctor import Verdict, examine


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with the embedded checkpoint and no other."""
    listings = [Listing("embedded", True, "small"), Listing("official", False, "pull it")]
    monkeypatch.setattr(inventory, "list_checkpoints", lambda: listings)


@pytest.mark.usefixtures("complete")
def test_a_good_machine_is_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "ok  torch" in text
    assert "absent  checkpoint official" in text
    assert "absent  kaolin" in text
    assert "--no-kaolin" in text


@pytest.mark.usefixtures("complete")
def test_a_missing_package_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: None if name == "numba" else real(name))
    assert main(["doctor"]) == 1
    assert "wrong  numba" in capsys.readouterr().out


def test_without_torch_the_rest_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed", lambda name: None)
    subjects = [finding.subject for finding in examine()]
    assert subjects == ["python", *doctor.REQUIRED]


@pytest.mark.usefixtures("complete")
def test_configurations_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[3]
    assert main(["doctor", "--config", str(root / "serve_config.yaml")]) == 0
    text = (root / "serve_config.yaml").read_text()
    wrong = tmp_path / "config.yaml"
    wrong.write_text(text.replace("max_ongoing_requests:", "max_ongoing_request:", 1))
    assert main(["doctor", "--config", str(wrong)]) == 1
    assert "max_ongoing_request" in capsys.readouterr().out
    faults = [one for one in examine(tmp_path / "absent.yaml") if one.verdict is Verdict.BAD]
    assert len(faults) == 1
    assert "can not be read" in faults[0].detail


@pytest.mark.usefixtures("complete")
def test_what_traces_need_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "EXPORTER", "no_such_package")
    (finding,) = [one for one in examine() if one.subject == "tracing"]
    assert finding.verdict is Verdict.OPTIONAL
    assert "synchuman-serve[tracing]" in finding.detail


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} >= {"embedded", "official", "random:small"}


def test_only_the_official_checkpoint_can_be_pulled(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "pull", "embedded"]) == 1
    assert "official" in capsys.readouterr().err
