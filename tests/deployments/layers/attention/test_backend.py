from __future__ import annotations

import logging

import pytest

from deployments.errors import BackendError
from deployments.layers.attention import Backend, choose_backend, current_backend
from deployments.layers.attention.backend import sdpa_by_name


def test_auto_is_sdpa_on_a_cpu_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert choose_backend("auto", "cpu") is Backend.SDPA
    assert current_backend() is Backend.SDPA
    assert "sdpa (the only one for cpu)" in caplog.text


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BackendError, match="choose one of auto, sdpa, xformers, flash-attn") as e:
        choose_backend("fast", "cpu")
    assert e.value.code == "attention_backend_unknown"


@pytest.mark.parametrize("name", ["xformers", "flash-attn"])
def test_a_gpu_library_gives_way_on_a_cpu_and_says_so(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert choose_backend(name, "cpu") is Backend.SDPA
    assert f"{name} was asked for but computes on CUDA only" in caplog.text
    assert current_backend() is Backend.SDPA


def test_only_a_name_keeps_our_kernel_from_standing_in_for_sdpa() -> None:
    choose_backend("sdpa", "cpu")
    assert sdpa_by_name()
    choose_backend("auto", "cpu")
    assert not sdpa_by_name()
