"""Reproducible parameters and inputs of the parity cases (NumPy only).

Nothing but a key, a shape and a seed goes in, so weights never have to be stored.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

_TABLES = frozenset({"cls_token", "pos_embed", "register_tokens", "mask_token"})


def parameter(key: str, shape: tuple[int, ...], seed: int) -> Float32:
    """The value of the state-dict entry ``key``: gains near one, biases small, products unit."""
    z = _normal(key, shape, seed)
    leaf = key.rpartition(".")[2]
    if leaf == "gamma" or (leaf == "weight" and len(shape) == 1):
        z = 1.0 + 0.1 * z
    elif leaf in _TABLES:
        z = 0.5 * z
    elif len(shape) > 1:
        z = z / np.sqrt(np.prod(shape[1:]))
    else:
        z = 0.1 * z
    return z.astype(np.float32)


def generated_input(name: str, shape: tuple[int, ...], seed: int, scale: float) -> Float32:
    """The value of the generated input ``name``."""
    return (scale * _normal(f"input:{name}", shape, seed)).astype(np.float32)


def _normal(text: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float64]:
    generator = np.random.default_rng([seed, zlib.crc32(text.encode())])
    return generator.standard_normal(shape)


def parameters_hash(values: Iterable[tuple[str, Float32]]) -> str:
    """SHA-256 over key bytes and little-endian float32 bytes; the keys come in ascending order."""
    digest = hashlib.sha256()
    for key, value in values:
        digest.update(key.encode())
        digest.update(np.ascontiguousarray(value, dtype="<f4").data)
    return digest.hexdigest()
