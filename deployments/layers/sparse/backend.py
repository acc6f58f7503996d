"""Which implementation computes sparse convolutions: chosen once, logged with the reason."""

from __future__ import annotations

import logging
from enum import Enum

import torch

from deployments.errors import BackendError

logger = logging.getLogger(__name__)


class SparseBackend(str, Enum):
    """Both compute the same sum; results differ by rounding only."""

    TORCH = "torch"  # gather and matrix product, runs everywhere, the reference
    TRITON = "triton"  # implicit GEMM on CUDA


_current = SparseBackend.TORCH


def current_sparse_backend() -> SparseBackend:
    """The backend that sparse convolutions use now."""
    return _current


def choose_sparse_backend(name: str, device: torch.device | str) -> SparseBackend:
    """Pick the backend of all later sparse convolutions of this process, and return it.

    ``name`` is "auto" (never fails), "torch" or "triton". Tensors on the CPU go to torch in any
    case. Raises ``BackendError`` for a backend that is asked for by name and can not run.
    """
    global _current
    _current, reason = _pick(name, torch.device(device))
    logger.info("sparse convolution backend: %s (%s)", _current.value, reason)
    return _current


def _pick(name: str, device: torch.device) -> tuple[SparseBackend, str]:
    if name == "auto":
        if device.type != "cuda":
            return SparseBackend.TORCH, f"the only one for {device.type}"
        missing = _triton_missing()
        if missing:
            return SparseBackend.TORCH, missing
        return SparseBackend.TRITON, "CUDA device and triton imports"
    names = [backend.value for backend in SparseBackend]
    if name not in names:
        raise BackendError(
            f"unknown sparse convolution backend {name!r}: choose auto, {' or '.join(names)}",
            code="sparse_backend_unknown",
        )
    backend = SparseBackend(name)
    if backend is SparseBackend.TRITON:
        missing = _triton_missing() if device.type == "cuda" else f"no CUDA device ({device})"
        if missing:
            raise BackendError(
                f"sparse convolution backend 'triton' is not usable: {missing}; use 'torch'",
                code="sparse_backend_unusable",
            )
    return backend, "asked for"


def _triton_missing() -> str:
    """Why Triton can not be used, or nothing."""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"triton does not import: {error}"
    return ""
