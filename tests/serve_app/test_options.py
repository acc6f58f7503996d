"""serve_app/options.py: ranges, defaults, modes, and options as a job stores them."""

from __future__ import annotations

import dataclasses
import json

import pytest
from pydantic import ValidationError

from deployments.contracts import GenerationOptions, Mode, OutputFormat, TextureFormat
from deployments.errors import InputError
from serve_app.options import (
    RequestOptions,
    options_as_json,
    options_from_json,
    resolve_mode,
)
from serve_app.settings import LiveArgs


def test_every_option_of_the_contract_can_be_asked_for() -> None:
    names = {field.name for field in dataclasses.fields(GenerationOptions)}
    assert names <= set(RequestOptions.model_fields)


def test_nothing_asked_is_the_contracts_default() -> None:
    assert RequestOptions().resolve(LiveArgs()) == GenerationOptions()


def test_the_default_texture_keeps_to_the_services_limit() -> None:
    assert RequestOptions().resolve(LiveArgs(max_texture_size=1024)).texture_size == 1024


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("stage1_steps", 30, 100), ("stage2_steps", 15, 40), ("seed", 0, 2**32 - 1)],
)
def test_ranges_hold_at_both_ends(name: str, low: int, high: int) -> None:
    for value in (low, high):
        assert getattr(RequestOptions(**{name: value}), name) == value
    for value in (low - 1, high + 1):
        with pytest.raises(ValidationError, match=f"must be {low} to {high}"):
            RequestOptions(**{name: value})


def test_zero_is_a_value_and_empty_is_none() -> None:
    options = RequestOptions(simplify=0, seed=0, guidance=0, target_faces="")
    resolved = options.resolve(LiveArgs())
    assert (resolved.simplify, resolved.seed, resolved.guidance) == (0.0, 0, 0.0)
    assert resolved.target_faces is None


@pytest.mark.parametrize("wanted", [*Mode, None])
@pytest.mark.parametrize("service", list(Mode))
def test_a_mode_is_never_more_than_the_services(wanted: Mode | None, service: Mode) -> None:
    if service is Mode.STAGE1_ONLY and wanted is Mode.OFFICIAL:
        with pytest.raises(InputError) as caught:
            resolve_mode(wanted, service)
        assert caught.value.code == "mode_unavailable"
    elif service is Mode.STAGE1_ONLY:
        assert resolve_mode(wanted, service) is Mode.STAGE1_ONLY
    else:
        assert resolve_mode(wanted, service) is (wanted or service)


def test_stored_options_come_back_equal() -> None:
    options = GenerationOptions(
        mode=Mode.GRACEFUL_FALLBACK,
        seed=1,
        guidance=2.5,
        texture_format=TextureFormat.WEBP,
        target_faces=100,
        formats=(OutputFormat.OBJ,),
    )
    stored = json.loads(json.dumps(options_as_json(options)))
    assert options_from_json(stored) == options
    assert options_from_json({}) == GenerationOptions()
