"""PNG on all processors: rows are filtered and deflated in strips that fit together again.

One deflate stream may be made of parts, if each starts with what the one before ended with as its
dictionary and ends at a byte (RFC 1950, 1951; PNG specification, third edition).
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from deployments.contracts import UInt8
from deployments.stage2.compiled import compiled, in_bands

LEVEL = 4  # of 9; above it a texture shrinks by a few per cent and takes twice as long
STRIP = 64  # rows
_WINDOW = 32768  # bytes that deflate looks back
_FILTERS = 5


def encode_png(picture: UInt8) -> bytes:
    """An RGB picture (H, W, 3) as a file, without loss."""
    height, width = picture.shape[:2]
    pixels = np.ascontiguousarray(picture).reshape(height, 3 * width)
    lines = np.empty((height, 1 + 3 * width), np.uint8)
    in_bands(height, lambda start, stop: _filter(pixels, lines, start, stop))

    strips = [lines[row : row + STRIP] for row in range(0, height, STRIP)]
    packed = [b""] * len(strips)

    def deflate(start: int, stop: int) -> None:
        for number in range(start, stop):
            before = strips[number - 1].reshape(-1)[-_WINDOW:].tobytes() if number else b""
            packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -15, 9, zlib.Z_FILTERED, before)
            last = number == len(strips) - 1
            packed[number] = packer.compress(strips[number].data) + packer.flush(
                zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH
            )

    in_bands(len(strips), deflate)
    stream = b"".join((b"\x78\x5e", *packed, struct.pack(">I", zlib.adler32(lines.data))))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"sRGB", b"\0"),
            _chunk(b"IDAT", stream),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(content, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(content)), kind, content, struct.pack(">I", check)))


@compiled
def _filter(pixels: NDArray[np.uint8], lines: NDArray[np.uint8], start: int, stop: int) -> None:
    """Write each row as its difference from a prediction, the one with the smallest residue."""
    width = pixels.shape[1]
    above, row = np.zeros(width + 3, np.int16), np.zeros(width + 3, np.int16)
    differences = np.empty((_FILTERS, width), np.uint8)
    if start > 0:
        above[3:] = pixels[start - 1]
    for number in range(start, stop):
        row[3:] = pixels[number]
        for i in range(width):
            value, left, up, corner = row[i + 3], row[i], above[i + 3], above[i]
            along, down, both = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
            nearest = left if along <= down and along <= both else up if down <= both else corner
            differences[0, i] = value
            differences[1, i] = value - left
            differences[2, i] = value - up
            differences[3, i] = value - ((left + up) >> 1)
            differences[4, i] = value - nearest
        best, least = 0, 255 * width
        for kind in range(_FILTERS):
            residue = 0
            for i in range(width):
                residue += min(differences[kind, i], 255 - differences[kind, i])
            if residue < least:
                best, least = kind, residue
        lines[number, 0] = best
        lines[number, 1:] = differences[best]
        above, row = row, above
