"""Which library computes attention: chosen once for the process, logged with the reason."""

from __future__ import annotations

import logging
from enum import Enum
from importlib.util import find_spec

import torch

from deployments.errors import BackendError

logger = logging.getLogger(__name__)


class Backend(str, Enum):
    """The values are the names that settings and the command line use."""

    SDPA = "sdpa"
    XFORMERS = "xformers"
    FLASH_ATTN = "flash-attn"


AUTO = "auto"
_MODULE = {Backend.XFORMERS: "xformers.ops", Backend.FLASH_ATTN: "flash_attn"}
_current = Backend.SDPA
_by_name = False


def current_backend() -> Backend:
    """The backend that attention calls use now."""
    return _current


def sdpa_by_name() -> bool:
    """Whether SDPA was asked for by name: then no kernel of ours stands in for it on Hopper."""
    return _by_name and _current is Backend.SDPA


def choose_backend(name: str, device: torch.device | str) -> Backend:
    """Pick the backend that all later attention calls of this process use, and return it.

    ``name`` is "auto" or a value of ``Backend``. A backend that is asked for by name and is not
    installed raises ``BackendError``; "auto" never fails. What a library does not take (float32,
    tensors on the CPU) goes to SDPA in any case, with results that differ by rounding only.
    """
    global _current, _by_name
    _current, reason = _pick(name, torch.device(device))
    _by_name = name == Backend.SDPA.value
    logger.info("attention backend: %s (%s)", _current.value, reason)
    return _current


def _pick(name: str, device: torch.device) -> tuple[Backend, str]:
    if name != AUTO:
        return _requested(name, device)
    if device.type != "cuda":
        return Backend.SDPA, f"the only one for {device.type}"
    major, minor = torch.cuda.get_device_capability(device)
    if major >= 9:
        # cuDNN's kernel, which SDPA reaches, is built for Hopper; the libraries' releases are not.
        return Backend.SDPA, f"cuDNN attention is the fastest on compute capability {major}.{minor}"
    for backend in (Backend.FLASH_ATTN, Backend.XFORMERS):
        if _importable(backend) and major >= 8:
            return backend, f"installed, compute capability {major}.{minor}"
    return Backend.SDPA, "no other attention library is installed"


def _requested(name: str, device: torch.device) -> tuple[Backend, str]:
    names = [backend.value for backend in Backend]
    if name not in names:
        raise BackendError(
            f"unknown attention backend {name!r}: choose one of {', '.join([AUTO, *names])}",
            code="attention_backend_unknown",
        )
    backend = Backend(name)
    if backend is Backend.SDPA:
        return backend, "asked for"
    if device.type != "cuda":
        # A service that is configured for a GPU still starts on a laptop; what is lost is speed.
        return Backend.SDPA, f"{name} was asked for but computes on CUDA only, this is {device}"
    if not _importable(backend):
        raise BackendError(
            f"attention backend {name!r} is not installed: `pip install {name}`, or use 'sdpa'",
            code="attention_backend_missing",
        )
    return backend, "asked for"


def _importable(backend: Backend) -> bool:
    module = _MODULE[backend]
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package of "xformers.ops" is missing
        return False
