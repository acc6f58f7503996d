from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from deployments.checkpoints.method import MethodConfig
from deployments.errors import InputError
from deployments.preprocess.pipeline import PreprocessPipeline

METHOD = MethodConfig(picture_size=192, condition_size=126)
SAMPLE = Path(__file__).parents[3] / "serve_app" / "sample" / "person.png"


def png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def person(size: tuple[int, int] = (300, 400), margin: int = 40) -> Image.Image:
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    box = (margin, margin, size[0] - margin, size[1] - margin)
    ImageDraw.Draw(image).ellipse(box, fill=(180, 120, 90, 255))
    return image


def prepare(image: Image.Image) -> tuple[str, ...]:
    return PreprocessPipeline(METHOD, matting="none")(png(image)).warnings


@pytest.mark.parametrize("method", [METHOD, MethodConfig()])
def test_sizes_follow_the_checkpoint(method: MethodConfig) -> None:
    prepared = PreprocessPipeline(method)(SAMPLE.read_bytes())
    size = method.picture_size

    assert prepared.rgba.shape == (size, size, 4)
    assert prepared.front.shape == prepared.face.shape == (size, size, 3)
    assert prepared.condition.shape == (method.condition_size, method.condition_size, 3)
    with Image.open(SAMPLE) as sample:
        assert prepared.original.shape == (*sample.size[::-1], 4)
    for array in (prepared.rgba, prepared.front, prepared.condition, prepared.original):
        assert array.dtype == np.uint8
        assert array.flags.c_contiguous
        assert array.flags.owndata


def test_the_shipped_sample_gives_no_warning() -> None:
    prepared = PreprocessPipeline(METHOD)(SAMPLE.read_bytes())
    assert prepared.warnings == ()
    assert 0.03 < prepared.alpha_coverage < 0.9


def test_backgrounds_are_white_and_black() -> None:
    prepared = PreprocessPipeline(METHOD)(png(person()))

    assert (prepared.front[0, 0] == 255).all()
    assert (prepared.condition[0, 0] == 0).all()
    assert prepared.front[96, 96].tolist() == [180, 120, 90]


def test_coverage_is_the_share_of_the_picture_as_sent() -> None:
    image = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    image.paste((5, 5, 5, 255), (50, 50, 150, 150))
    assert PreprocessPipeline(METHOD)(png(image)).alpha_coverage == 0.25


def test_an_opaque_picture_needs_matting() -> None:
    with pytest.raises(InputError) as caught:
        prepare(Image.new("RGBA", (200, 200), (7, 7, 7, 255)))
    assert caught.value.code == "background_not_removed"


def test_nothing_to_see() -> None:
    faint = Image.new("RGBA", (200, 200), (9, 9, 9, 100))
    with pytest.raises(InputError, match="shows nothing: no pixel has an alpha over 204") as caught:
        prepare(faint)
    assert caught.value.code == "no_subject"


@pytest.mark.parametrize("box", [(100, 100, 120, 130), (100, 5, 104, 195)])
def test_a_subject_too_small_to_be_one(box: tuple[int, int, int, int]) -> None:
    image = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    image.paste((5, 5, 5, 255), box)
    with pytest.raises(InputError) as caught:
        prepare(image)
    assert caught.value.code == "subject_too_small"


def test_a_thin_line_in_a_huge_picture_is_no_crash() -> None:
    image = Image.new("RGBA", (3000, 70), (0, 0, 0, 0))
    image.paste((5, 5, 5, 255), (0, 10, 3000, 11))
    with pytest.raises(InputError, match="25 to 1 is no person"):
        prepare(image)


def test_a_good_picture_gives_no_warning() -> None:
    assert prepare(person()) == ()


@pytest.mark.parametrize(
    ("image", "warning"),
    [
        (person((1200, 1200), margin=530), "covers 1.1% of the picture; crop closer"),
        (person((120, 120), margin=20), "80 pixels on its longer side and is enlarged to 192"),
        (person().crop((0, 0, 300, 250)), "cut off at the picture's bottom edge"),
        (person().crop((100, 0, 200, 400)), "cut off at the picture's left, right edge"),
    ],
)
def test_warnings_name_what_to_improve(image: Image.Image, warning: str) -> None:
    assert any(warning in found for found in prepare(image)), prepare(image)


def test_warns_of_a_background_that_is_still_there() -> None:
    image = Image.new("RGBA", (300, 300), (7, 7, 7, 255))
    image.paste((0, 0, 0, 0), (0, 0, 20, 20))
    assert any("background may still be there" in found for found in prepare(image))


def test_warns_of_haze_that_shrinks_the_subject() -> None:
    image = person((600, 600), margin=180)
    image.putpixel((3, 3), (255, 255, 255, 1))
    assert any("faint pixels far from the subject" in found for found in prepare(image))
