"""Does a kernel that was made for Hopper, and measured on no other card, work on this one?

Such a kernel is tried once before it takes over: its language is young, and what it leaves out is
the library's in any case, with results that differ by rounding only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

CAPABILITY = (9, 0)
Trial = Callable[[torch.device, torch.dtype], None]  # raises where the kernel fails or is wrong


def takes(x: Tensor, kernel: str, trial: Trial) -> bool:
    """Whether the kernel of that name takes over for tensors like ``x`` on a GPU.

    Not inside ``torch.compile``, which can not follow the descriptors that these kernels take.
    """
    return not torch.compiler.is_compiling() and _works(kernel, trial, x.device, x.dtype)


@lru_cache(maxsize=64)
def _works(kernel: str, trial: Trial, device: torch.device, dtype: torch.dtype) -> bool:
    capability = torch.cuda.get_device_capability(device)
    reason = obstacle(kernel, capability, partial(_run, trial, device, dtype))
    if reason is None:
        logger.info("%s: ours on %s in %s", kernel, device, dtype)
    return reason is None


def obstacle(kernel: str, capability: tuple[int, int], trial: Callable[[], None]) -> str | None:
    """Why the library has to do the work of ``kernel``, logged; None where ``trial`` passes."""
    if capability != CAPABILITY:
        reason = "ours is made for compute capability {}.{}, this is {}.{}".format(
            *CAPABILITY, *capability
        )
        logger.info("%s: the library's (%s)", kernel, reason)
        return reason
    try:
        trial()
    except Exception as error:  # whatever fails in it, the library still computes
        reason = f"ours failed: {type(error).__name__}: {str(error)[:300]}"
        logger.warning("%s: the library's (%s)", kernel, reason)
        return reason
    return None


def expect_close(found: Tensor, wanted: Tensor) -> None:
    """Raise ``ArithmeticError`` where a trial's results differ by more than rounding."""
    if not torch.allclose(found.float(), wanted.float(), rtol=0.02, atol=0.02):
        worst = float((found.float() - wanted.float()).abs().max())
        raise ArithmeticError(f"results differ from the plain form by up to {worst:.2g}")


def wave(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Values within one for a trial, (size,): the random numbers of the process are left alone."""
    return torch.arange(size, device=device).sin().to(dtype)


def _run(trial: Trial, device: torch.device, dtype: torch.dtype) -> None:
    trial(device, dtype)
    torch.cuda.synchronize(device)
