from __future__ import annotations

import base64
from pathlib import Path

import pytest
from pydantic import ValidationError

from deployments.contracts import Mode
from serve_app.settings import AllArgs, FrontArgs, SettingsBase, Stage1Args, Stage2Args


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("stage1_steps", 29),
        ("stage1_steps", 101),
        ("stage2_steps", 14),
        ("stage2_steps", 41),
        ("max_attempts", 0),
        ("lease_s", 0),
        ("mode", "fast"),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, bad):
    with pytest.raises(ValidationError, match=name):
        FrontArgs.model_validate({name: bad})


@pytest.mark.parametrize("model", [FrontArgs, Stage1Args, Stage2Args, AllArgs])
def test_unknown_names_are_refused(model: type[SettingsBase]):
    with pytest.raises(ValidationError, match="stage1_step\n"):
        model.model_validate({"stage1_step": 50})


def test_the_defaults_are_those_of_the_document():
    args = AllArgs()
    assert (args.mode, args.stage1_steps, args.stage2_steps) == (Mode.OFFICIAL, 50, 25)
    assert args.require_kaolin


def test_arguments_win_over_the_environment_and_it_over_defaults(monkeypatch):
    monkeypatch.setenv("SYNCHUMAN_STAGE1_STEPS", "75")
    monkeypatch.setenv("SYNCHUMAN_DATABASE_URL", "postgresql+psycopg://u:secret@db/jobs")
    assert FrontArgs.model_validate({}).stage1_steps == 75
    assert FrontArgs.model_validate({"stage1_steps": 60}).stage1_steps == 60
    assert FrontArgs().database_url == "postgresql+psycopg://u:secret@db/jobs"
    assert FrontArgs().stage2_steps == 25


def test_the_attention_backend_has_the_name_of_the_users_document_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ATTN_BACKEND", "xformers")
    assert Stage1Args().attn_backend == "xformers"
    monkeypatch.setenv("SYNCHUMAN_ATTN_BACKEND", "flash-attn")
    assert Stage1Args().attn_backend == "flash-attn"
    assert AllArgs(attn_backend="sdpa").part(Stage1Args).attn_backend == "sdpa"


def test_the_environment_is_checked_like_everything_else(monkeypatch):
    monkeypatch.setenv("SYNCHUMAN_STAGE1_STEPS", "7")
    with pytest.raises(ValidationError, match="stage1_steps"):
        FrontArgs()


def test_relative_places_are_fixed_where_they_are_read(tmp_path: Path):
    args = FrontArgs()
    assert args.storage_url == str(tmp_path / "tmp_api_jobs")
    assert args.database_url == f"sqlite:///{tmp_path}/synchuman_data/jobs.db"
    assert FrontArgs(storage_url="s3://bucket/jobs").storage_url == "s3://bucket/jobs"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "raise"),
        ({"mode": "official"}, "raise"),
        ({"mode": "graceful-fallback"}, "idle"),
        ({"mode": "official", "on_missing": "idle"}, "idle"),
        ({"mode": "graceful-fallback", "on_missing": "raise"}, "raise"),
    ],
)
def test_a_missing_kaolin_follows_the_mode_unless_it_is_said(given, expected):
    assert Stage2Args.model_validate(given).on_missing == expected


def test_the_mode_of_the_environment_counts_too(monkeypatch):
    monkeypatch.setenv("SYNCHUMAN_MODE", "graceful-fallback")
    assert Stage2Args().on_missing == "idle"


def test_all_arguments_split_into_their_applications():
    args = AllArgs(checkpoint="embedded", mode=Mode.GRACEFUL_FALLBACK, stage1_steps=75)
    front, first, second = (args.part(kind) for kind in (FrontArgs, Stage1Args, Stage2Args))
    assert {part.checkpoint for part in (front, first, second)} == {"embedded"}
    assert (front.stage1_steps, second.on_missing) == (75, "idle")
    assert first.jobs_app is None, "in one application the stages report to their own Jobs"


def test_a_webhook_secret_that_could_not_sign_is_refused_at_start() -> None:
    good = "whsec_" + base64.b64encode(bytes(32)).decode()
    args = FrontArgs(webhook_secret=f"{good} {good}")
    assert good not in repr(args)
    for bad in ("secret", "whsec_c2hvcnQ=", f"{good} whsec_%%%"):
        with pytest.raises(ValidationError, match="24 to 64 bytes in base64"):
            FrontArgs(webhook_secret=bad)
