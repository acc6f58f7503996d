"""From bytes to an upright RGBA picture, with every limit checked before a pixel is decoded."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from deployments.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_MEGAPIXELS = 50.0
MIN_SIDE = 64

_TRANSPOSING_ORIENTATIONS = (5, 6, 7, 8)
_ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class ImageHeader:
    """What a picture's header says. ``width`` and ``height`` are pixels of the upright picture."""

    format: str  # one of FORMATS
    width: int
    height: int
    mode: str  # Pillow's name of the pixel layout as stored

    @property
    def megapixels(self) -> float:
        return self.width * self.height / 1e6


def inspect_image(
    data: bytes, *, max_megapixels: float = MAX_MEGAPIXELS, min_side: int = MIN_SIDE
) -> ImageHeader:
    """Read the header of a PNG, JPEG or WebP picture; decodes no pixel.

    The format follows from the content, a file name or media type plays no role. Raises InputError
    ``image_empty``, ``image_format`` (another format, damaged, animated), ``image_truncated``,
    ``image_pixels`` (more than ``max_megapixels``) or ``image_too_small`` (a side under
    ``min_side``).
    """
    _check_complete(data)
    with _open(data, max_megapixels) as image:
        header = _header(image)
        frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise InputError(
            f"the picture is an animation of {frames} frames; send one still frame as PNG, JPEG "
            "or WebP",
            code="image_format",
            frames=frames,
        )
    _check_size(header, max_megapixels, min_side)
    return header


def decode_image(
    data: bytes, *, max_megapixels: float = MAX_MEGAPIXELS, min_side: int = MIN_SIDE
) -> Image.Image:
    """Decode to an upright 8-bit RGBA picture; alpha is 255 where the file has none.

    EXIF orientation is applied. 16-bit greys keep their high byte, palettes, CMYK and luminance are
    converted. Raises what ``inspect_image`` raises, and ``image_truncated`` when pixels are absent.
    """
    inspect_image(data, max_megapixels=max_megapixels, min_side=min_side)
    with _open(data, max_megapixels) as image:
        try:
            image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(
                f"the picture's pixels can not be read ({error}); send the whole, undamaged file",
                code="image_truncated",
            ) from error
        return _to_rgba(_upright(image))


def _open(data: bytes, max_megapixels: float) -> Image.Image:
    if not data:
        raise InputError(
            "the picture has 0 bytes; send a PNG, JPEG or WebP picture", code="image_empty"
        )
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise InputError(
            f"the {len(data):,} bytes are no PNG, JPEG or WebP picture (they start with "
            f"{data[:8]!r}); convert the picture to one of these",
            code="image_format",
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"the picture has too many pixels ({error}); at most {max_megapixels:g} megapixels "
            "are taken, make it smaller",
            code="image_pixels",
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"the picture's header is damaged ({error}); send the whole file",
            code="image_format",
        ) from error


def _header(image: Image.Image) -> ImageHeader:
    width, height = image.size
    if _orientation(image) in _TRANSPOSING_ORIENTATIONS:
        width, height = height, width
    return ImageHeader(image.format or "", width, height, image.mode)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation as far as the header tells; ``getexif`` would decode a PNG's pixels."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        return int(exif.get(_ORIENTATION_TAG, 1))
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):
        return 1  # as _upright


def _check_size(header: ImageHeader, max_megapixels: float, min_side: int) -> None:
    size = f"{header.width} x {header.height} pixels"
    if header.megapixels > max_megapixels:
        raise InputError(
            f"the picture has {size}, that is {header.megapixels:.1f} megapixels; at most "
            f"{max_megapixels:g} are taken, make it smaller",
            code="image_pixels",
            width=header.width,
            height=header.height,
        )
    if min(header.width, header.height) < min_side:
        raise InputError(
            f"the picture has {size}; both sides need at least {min_side}, send a larger one",
            code="image_too_small",
            width=header.width,
            height=header.height,
        )


def _check_complete(data: bytes) -> None:
    """Look for the file's own end mark; what follows the mark does not matter."""
    if data.startswith(b"\x89PNG"):
        complete = b"IEND" in data
    elif data.startswith(b"\xff\xd8\xff"):
        complete = b"\xff\xd9" in data
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":  # states its length instead
        complete = len(data) >= 8 + int.from_bytes(data[4:8], "little")
    else:
        complete = True
    if not complete:
        raise InputError(
            f"the picture of {len(data):,} bytes ends before its last pixel; send the whole file",
            code="image_truncated",
        )


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):
        return image  # damaged metadata says nothing about the picture


def _to_rgba(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, in Pillow's spellings I;16, I;16B, I
        grey = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    return image.convert("RGBA")
