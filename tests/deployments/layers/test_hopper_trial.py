"""A kernel made for Hopper takes over where its trial passes; elsewhere the log says why not."""

from __future__ import annotations

import logging

import pytest
import torch

from deployments.layers.hopper_trial import CAPABILITY, expect_close, obstacle, wave


def passes() -> None:
    pass


def test_a_kernel_that_passes_its_trial_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert obstacle("gated product", CAPABILITY, passes) is None
    assert not caplog.records


@pytest.mark.parametrize("capability", [(8, 9), (10, 0)])
def test_another_card_computes_with_the_library_and_says_so(
    capability: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tried: list[bool] = []
    major, minor = capability
    found = obstacle("gated product", capability, lambda: tried.append(True))
    assert found == f"ours is made for compute capability 9.0, this is {major}.{minor}"
    assert not tried
    assert f"gated product: the library's ({found})" in caplog.text


def test_a_kernel_that_does_not_compile_is_left_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails() -> None:
        raise ModuleNotFoundError("No module named 'triton.experimental'")

    found = obstacle("attention", CAPABILITY, fails)
    assert found is not None
    assert "No module named 'triton.experimental'" in found
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_kernel_that_computes_something_else_is_left() -> None:
    plain = wave(64, torch.device("cpu"), torch.float16)
    expect_close(plain + 1e-3, plain)
    found = obstacle("attention", CAPABILITY, lambda: expect_close(plain + 0.5, plain))
    assert found == "ours failed: ArithmeticError: results differ from the plain form by up to 0.5"


def test_nan_counts_as_something_else() -> None:
    plain = wave(64, torch.device("cpu"), torch.float16)
    with pytest.raises(ArithmeticError, match="nan"):
        expect_close(plain * float("nan"), plain)
