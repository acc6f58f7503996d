from __future__ import annotations

import logging

import pytest

from deployments.errors import BackendError
from deployments.layers.sparse.backend import (
    SparseBackend,
    choose_sparse_backend,
    current_sparse_backend,
)


def test_the_cpu_has_one_choice_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert choose_sparse_backend("auto", "cpu") is SparseBackend.TORCH
    assert current_sparse_backend() is SparseBackend.TORCH
    assert "sparse convolution backend: torch (the only one for cpu)" in caplog.text


def test_asking_for_what_can_not_run_is_an_error_with_a_remedy() -> None:
    with pytest.raises(BackendError, match=r"no CUDA device.*use 'torch'") as caught:
        choose_sparse_backend("triton", "cpu")
    assert caught.value.code == "sparse_backend_unusable"


def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(BackendError, match="'spconv': choose auto, torch or triton") as caught:
        choose_sparse_backend("spconv", "cpu")
    assert caught.value.code == "sparse_backend_unknown"
