"""From the bytes of a photo to everything that the two stages look at."""

from __future__ import annotations

import numpy as np
from PIL import Image

from deployments.checkpoints.method import MethodConfig
from deployments.contracts import PreparedImage
from deployments.errors import InputError
from deployments.preprocess.decode import MAX_MEGAPIXELS, MIN_SIDE, decode_image
from deployments.preprocess.framing import (
    SOLID_ALPHA,
    AlphaBox,
    alpha_box,
    condition_picture,
    frame_face,
    frame_subject,
    on_white,
    quantise,
)
from deployments.preprocess.matting import choose_matting

_MIN_SUBJECT = 32  # pixels on the longer side; less shows no person
_THINNEST = 25
_LOW_COVERAGE = 0.03
_FULL_COVERAGE = 0.9
_SMALL_SUBJECT = 0.5  # of the picture size that the method enlarges the subject to
_HAZE = 1.25  # how much longer the box of faint pixels may be than that of solid ones
_CUT_OFF = 0.05  # share of the subject's side that touches the picture's edge


class PreprocessPipeline:
    """Decode, orient, matte and frame a photo for one checkpoint's sizes (model.md section 4).

    ``matting`` is ``auto``, ``rembg`` or ``none`` and only matters for pictures without any
    transparent pixel.
    """

    def __init__(
        self,
        method: MethodConfig,
        *,
        matting: str = "auto",
        max_megapixels: float = MAX_MEGAPIXELS,
        min_side: int = MIN_SIDE,
    ) -> None:
        self.method = method
        self._remove_background = choose_matting(matting)
        self._max_megapixels = max_megapixels
        self._min_side = min_side

    def __call__(self, data: bytes) -> PreparedImage:
        """Prepare one picture.

        Raises InputError: what ``decode_image`` raises, ``background_not_removed``, ``no_subject``,
        ``subject_too_small``.
        """
        image = decode_image(data, max_megapixels=self._max_megapixels, min_side=self._min_side)
        if image.getchannel("A").getextrema()[0] == 255:
            image = self._remove_background(image)
        return self.frame(image)

    def frame(self, image: Image.Image) -> PreparedImage:
        """Frame an RGBA picture whose background is transparent."""
        solid, visible = _find_subject(image)
        size = self.method.picture_size
        canvas = frame_subject(image, visible, size)
        alpha = np.asarray(image.getchannel("A"))
        coverage = float((alpha > SOLID_ALPHA).mean())
        return PreparedImage(
            original=np.array(image),
            rgba=np.array(canvas),
            front=quantise(on_white(canvas)),
            face=quantise(on_white(frame_face(canvas))),
            condition=condition_picture(image, solid, self.method.condition_size),
            alpha_coverage=coverage,
            warnings=tuple(_warnings(alpha > SOLID_ALPHA, solid, visible, coverage, size)),
        )


def _find_subject(image: Image.Image) -> tuple[AlphaBox, AlphaBox]:
    """The boxes of solid and of visible pixels, or an InputError that says what is wrong."""
    solid, visible = alpha_box(image, SOLID_ALPHA), alpha_box(image, 0)
    if solid is None or visible is None:
        raise InputError(
            f"the {image.width} x {image.height} picture shows nothing: no pixel has an alpha over "
            f"{SOLID_ALPHA} of 255. Send a picture whose subject is opaque and whose background "
            "is transparent",
            code="no_subject",
        )
    if visible.longest > _THINNEST * visible.shortest:
        raise InputError(
            f"the subject is {visible.longest} pixels long and {visible.shortest} wide; more than "
            f"{_THINNEST} to 1 is no person, check the picture's transparency",
            code="subject_too_small",
            pixels=visible.shortest,
        )
    if solid.longest < _MIN_SUBJECT:
        raise InputError(
            f"the subject is {solid.longest} pixels on its longer side; at least {_MIN_SUBJECT} "
            "are needed, send a picture in which the person is larger",
            code="subject_too_small",
            pixels=solid.longest,
        )
    return solid, visible


def _warnings(
    subject: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    solid: AlphaBox,
    visible: AlphaBox,
    coverage: float,
    size: int,
) -> list[str]:
    found = []
    if coverage < _LOW_COVERAGE:
        found.append(f"the subject covers {coverage:.1%} of the picture; crop closer to the person")
    if coverage > _FULL_COVERAGE:
        found.append(
            f"the subject covers {coverage:.0%} of the picture; the background may still be there"
        )
    if solid.longest < _SMALL_SUBJECT * size:
        found.append(
            f"the subject is {solid.longest} pixels on its longer side and is enlarged to {size}; "
            "a larger picture gives a sharper result"
        )
    if visible.longest > _HAZE * solid.longest:
        found.append(
            "faint pixels far from the subject make it smaller in the frame; "
            "clean the transparent background"
        )
    edges = {
        "left": (subject[:, 0], solid.bottom - solid.top),
        "right": (subject[:, -1], solid.bottom - solid.top),
        "top": (subject[0], solid.right - solid.left),
        "bottom": (subject[-1], solid.right - solid.left),
    }
    cut = [name for name, (edge, side) in edges.items() if edge.sum() > _CUT_OFF * max(side, 1)]
    if cut:
        found.append(
            f"the subject is cut off at the picture's {', '.join(cut)} edge; "
            "the missing part will be missing or guessed"
        )
    return found
