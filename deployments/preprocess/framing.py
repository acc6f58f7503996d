"""Cutting a matted picture to the two crops and the condition picture of the method.

Every rounding here is the official one (model.md section 4), off-by-one crop and truncation
included: the networks were trained on pictures made this way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.contracts import UInt8

SOLID_ALPHA = 204  # 0.8 * 255: above this a pixel certainly shows the subject
_CONDITION_MARGIN = 1.2


class AlphaBox(NamedTuple):
    """First and last column and row whose alpha exceeds a threshold, all inclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def longest(self) -> int:
        """Longer side in pixels, counted as the official code does: last minus first."""
        return max(self.right - self.left, self.bottom - self.top)

    @property
    def shortest(self) -> int:
        """Shorter side, counted in the same way."""
        return min(self.right - self.left, self.bottom - self.top)


def alpha_box(image: Image.Image, above: int) -> AlphaBox | None:
    """The box of the pixels with alpha over ``above`` (0..255); None when there are none."""
    solid = np.asarray(image.getchannel("A")) > above
    columns, rows = np.flatnonzero(solid.any(axis=0)), np.flatnonzero(solid.any(axis=1))
    if not len(columns):
        return None
    return AlphaBox(int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1]))


def frame_subject(image: Image.Image, box: AlphaBox, size: int) -> Image.Image:
    """RGBA to RGBA (size, size): the box, without its last row and column, filling the canvas."""
    subject = image.crop(box)
    scale = size / max(subject.size)
    # The longer side becomes size - 1 where the product falls just short of it.
    width, height = (int(scale * side) for side in subject.size)
    subject = subject.resize((width, height), Image.Resampling.BICUBIC)
    canvas = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    canvas.paste(subject, ((size - width) // 2, (size - height) // 2))
    return canvas


def frame_face(canvas: Image.Image) -> Image.Image:
    """The top centre third of the framed subject, enlarged to the same size."""
    size = canvas.width
    third = size // 3
    face = canvas.crop((third, 0, 2 * third, third))
    return face.resize((size, size), Image.Resampling.BICUBIC)


def on_white(image: Image.Image) -> NDArray[np.float32]:
    """RGBA (H, W) to float32 (H, W, 3) in 0..1 over a white background."""
    pixels = np.asarray(image).astype(np.float32) / 255.0
    alpha = pixels[..., 3:]
    blended: NDArray[np.float32] = pixels[..., :3] * alpha + (1 - alpha)
    return blended


def quantise(picture: NDArray[np.float32]) -> UInt8:
    """0..1 to 8 bit by truncation, as the networks' preprocessing does."""
    return (picture * 255).astype(np.uint8)


def condition_picture(image: Image.Image, box: AlphaBox, size: int) -> UInt8:
    """RGBA to uint8 (size, size, 3): a square around the solid box with margin, on black.

    ``box`` is that of ``SOLID_ALPHA`` in the picture as sent; the square may reach beyond it.
    """
    centre_x, centre_y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    half = int(_CONDITION_MARGIN * box.longest) // 2
    # Pillow rounds half bounds to even, as the official crop relies on.
    corners = (centre_x - half, centre_y - half, centre_x + half, centre_y + half)
    left, top, right, bottom = (round(corner) for corner in corners)
    square = image.crop((left, top, right, bottom))
    square = square.resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(square).astype(np.float32) / 255.0
    return quantise(pixels[..., :3] * pixels[..., 3:])
