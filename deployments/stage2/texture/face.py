"""Whether the face picture may paint over the front picture.

The face picture shows the same head three times larger, and where it is right it is worth more than
the front. But the front picture is the user's own photo and the face picture is generated: a small
checkpoint can make it another person's. Reduced to a third, the two have to agree.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deployments.contracts import UInt8

# Of 255. Real pictures of the official code differ by 9; the first embedded checkpoint, whose faces
# come out in other colours, by 38.
AGREES_BELOW = 20.0


def face_difference(front: UInt8, face: UInt8, shows: NDArray[np.bool_]) -> float:
    """Root mean square difference of colours, 0..255, where both pictures show the subject.

    Args:
        front, face: (H, H, 3).
        shows: (2, H, H) where the front and the face picture show the subject.

    Returns infinity when they share no such pixel.
    """
    third = len(front) // 3
    rows, columns = slice(0, third), slice(third, 2 * third)
    reduced = _by_thirds(face[: 3 * third, : 3 * third].astype(np.float64))
    covered = _by_thirds(shows[1][: 3 * third, : 3 * third].astype(np.float64))[..., 0] == 1
    both = shows[0][rows, columns] & covered
    if not both.any():
        return float("inf")
    return float(np.sqrt(np.mean((reduced - front[rows, columns])[both] ** 2)))


def _by_thirds(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of 3 x 3 pixels of (3 h, 3 h) or (3 h, 3 h, C) -> (h, h, C)."""
    third = len(picture) // 3
    means: NDArray[np.float64] = picture.reshape(third, 3, third, 3, -1).mean(axis=(1, 3))
    return means
