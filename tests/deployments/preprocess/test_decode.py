from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deployments.errors import InputError
from deployments.preprocess.decode import decode_image, inspect_image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 120, height: int = 80) -> Image.Image:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([x * 2, y * 3, (x + y) % 256], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels)


def code_of(data: bytes, **limits: Any) -> tuple[str, str]:
    with pytest.raises(InputError) as caught:
        inspect_image(data, **limits)
    return caught.value.code, caught.value.message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_reads_the_header_by_content(kind: str) -> None:
    header = inspect_image(encoded(gradient(), kind))
    assert (header.format, header.width, header.height) == (kind, 120, 80)
    assert header.megapixels == pytest.approx(0.0096)


def test_no_bytes() -> None:
    assert code_of(b"")[0] == "image_empty"


@pytest.mark.parametrize("data", [b"hello", b"\x89PNG-IEND", b"\xff\xd8\xff\xd9", b"RIFF" * 9])
def test_other_bytes_are_no_picture(data: bytes) -> None:
    code, message = code_of(data)
    assert code == "image_format"
    assert "PNG, JPEG or WebP" in message or "whole file" in message


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_refused(kind: str) -> None:
    assert code_of(encoded(gradient(), kind))[0] == "image_format"


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_refused(kind: str) -> None:
    frames = [gradient(), gradient().rotate(180)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])

    code, message = code_of(data)

    assert code == "image_format"
    assert "animation of 2 frames; send one still frame" in message


def test_too_many_pixels() -> None:
    code, message = code_of(encoded(gradient(), "PNG"), max_megapixels=0.005)
    assert code == "image_pixels"
    assert "120 x 80 pixels" in message
    assert "at most 0.005 are taken" in message


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    """A header alone can state 400 megapixels; Pillow's own guard must end as our error too."""
    data = bytearray(encoded(Image.new("1", (64, 64)), "PNG"))
    data[16:24] = (20_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")

    assert code_of(bytes(data))[0] == "image_pixels"


def test_too_small() -> None:
    code, message = code_of(encoded(gradient(120, 40), "PNG"))
    assert code == "image_too_small"
    assert "120 x 40 pixels; both sides need at least 64" in message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_cut_off_file_is_found_without_decoding(kind: str) -> None:
    data = encoded(gradient(), kind)
    assert code_of(data[: len(data) // 2])[0] == "image_truncated"


def test_a_picture_damaged_inside_is_found_when_decoding() -> None:
    data = bytearray(encoded(Image.effect_noise((200, 200), 90), "PNG"))
    data[len(data) // 2] ^= 0xFF

    assert inspect_image(bytes(data)).format == "PNG"
    with pytest.raises(InputError) as caught:
        decode_image(bytes(data))
    assert caught.value.code == "image_truncated"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    upright = gradient()
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, "PNG", exif=exif)

    header = inspect_image(data)
    decoded = decode_image(data)

    assert (header.width, header.height) == upright.size
    assert np.array_equal(np.asarray(decoded)[..., :3], np.asarray(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so, and goes on
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_metadata_does_not_matter(kind: str) -> None:
    data = encoded(gradient(), kind, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert inspect_image(data).width == 120
    assert decode_image(data).size == (120, 80)


def test_opaque_pictures_get_full_alpha() -> None:
    decoded = decode_image(encoded(gradient(), "JPEG", quality=95))
    assert decoded.mode == "RGBA"
    assert decoded.getchannel("A").getextrema() == (255, 255)


def test_sixteen_bit_grey_keeps_its_high_byte() -> None:
    values = np.linspace(0, 65535, 100 * 100).astype(np.uint16).reshape(100, 100)
    decoded = decode_image(encoded(Image.fromarray(values), "PNG"))

    assert np.array_equal(np.asarray(decoded)[..., 0], (values >> 8).astype(np.uint8))


def test_palette_transparency_becomes_alpha() -> None:
    image = Image.new("P", (80, 80), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (20, 20, 60, 60))

    decoded = np.asarray(decode_image(encoded(image, "PNG", transparency=0)))

    assert decoded[0, 0, 3] == 0
    assert decoded[40, 40].tolist() == [200, 100, 50, 255]


def test_cmyk_is_converted() -> None:
    image = Image.new("CMYK", (80, 80), (0, 255, 255, 0))
    decoded = np.asarray(decode_image(encoded(image, "JPEG", quality=95)))

    red, green, blue, alpha = decoded[40, 40].tolist()
    assert red > 200
    assert max(green, blue) < 60
    assert alpha == 255


@pytest.mark.parametrize("mode", ["L", "LA", "1", "RGBA"])
def test_every_layout_decodes(mode: str) -> None:
    decoded = decode_image(encoded(gradient().convert(mode), "PNG"))
    assert decoded.mode == "RGBA"
    assert decoded.size == (120, 80)
