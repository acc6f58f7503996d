"""Which implementation turns corner values into triangles: chosen once, logged with the reason."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch

from deployments.errors import BackendError
from deployments.stage2.mesh.corners import CornerField
from deployments.stage2.mesh.kaolin_extractor import KaolinExtractor
from deployments.stage2.mesh.native_extractor import Triangles, extract_native

logger = logging.getLogger(__name__)

Extractor = Callable[[CornerField, torch.Tensor, torch.Tensor], Triangles]

BACKENDS = ("native", "kaolin")


@cache
def choose_extractor(backend: str) -> Extractor:
    """The extractor called "native" or "kaolin".

    Raises:
        BackendError: unknown name, or kaolin is asked for and is missing, a placeholder or broken.
    """
    if backend == "native":
        logger.info("mesh extraction: native (own FlexiCubes on the active shell)")
        return extract_native
    if backend == "kaolin":
        extractor = KaolinExtractor()
        logger.info("mesh extraction: kaolin (asked for, and its FlexiCubes imports)")
        return extractor
    raise BackendError(
        f"mesh extraction {backend!r} is unknown: choose one of {', '.join(BACKENDS)}",
        code="unknown_extraction_backend",
    )
