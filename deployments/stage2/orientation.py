"""Every file that leaves Stage 2 is y up with the subject facing +z, as glTF asks for.

Inside, the volume is z up and the subject faces -y (model.md 3): (x, y, z) leaves as (x, z, -y).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TO_FILE = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], np.float64)


def to_file(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Positions or normals (N, 3) in the orientation of files."""
    return np.ascontiguousarray(vectors @ TO_FILE.T, np.float32)


def rotations_to_file(quaternions: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Quaternions (N, 4) as (w, x, y, z): a quarter turn about x is put in front."""
    half = np.sqrt(0.5)
    w, x, y, z = np.moveaxis(quaternions.astype(np.float64), 1, 0)
    turned = half * np.stack((w + x, x - w, y + z, z - y), axis=1)
    return turned.astype(np.float32)
