"""Taking the background away from a picture that still has one.

The one adapter is rembg with U2-Net, the official choice (model.md section 4), when the package and
its weights are installed. Nothing is fetched here: weights that are not there count as absent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from deployments.errors import BackendError, InputError

Matting = Callable[[Image.Image], Image.Image]

MATTING_CHOICES = ("auto", "rembg", "none")
_LONGEST_SIDE = 1024  # the official code shrinks to this before it removes a background
_REMEDY = (
    "install it with \"pip install 'synchuman-serve[matting]'\" and fetch its weights once with "
    "'rembg d u2net'"
)


def choose_matting(choice: str = "auto") -> Matting:
    """The function that turns an opaque RGBA picture into one with a transparent background.

    ``auto`` takes rembg where it is usable and otherwise a function that refuses; ``rembg`` insists
    and raises BackendError; ``none`` always refuses.
    """
    if choice not in MATTING_CHOICES:
        raise BackendError(
            f"matting '{choice}' does not exist; choose one of {', '.join(MATTING_CHOICES)}",
            code="matting_unknown",
        )
    if choice == "none":
        return _refuse
    try:
        return RembgMatting()
    except BackendError:
        if choice == "rembg":
            raise
        return _refuse


class RembgMatting:
    """U2-Net by rembg. Building one loads the weights, 176 MB, from rembg's own folder."""

    def __init__(self) -> None:
        try:
            import rembg
            from rembg.sessions.u2net import U2netSession
        except ImportError as error:
            raise BackendError(
                f"background removal needs rembg, which does not import here ({error}); {_REMEDY}",
                code="matting_unavailable",
            ) from error
        weights = Path(U2netSession.u2net_home()) / f"{U2netSession.name()}.onnx"
        if not weights.is_file():
            raise BackendError(
                f"background removal needs the weights {weights}, which are not there; {_REMEDY}",
                code="matting_unavailable",
            )
        self._remove = rembg.remove
        self._session = rembg.new_session(U2netSession.name())

    def __call__(self, image: Image.Image) -> Image.Image:
        """(RGBA) to (RGBA), at most 1024 pixels on the longer side."""
        scale = min(1.0, _LONGEST_SIDE / max(image.size))
        if scale < 1.0:
            width, height = (int(side * scale) for side in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        result: Image.Image = self._remove(image.convert("RGB"), session=self._session)
        return result.convert("RGBA")


def _refuse(image: Image.Image) -> Image.Image:
    raise InputError(
        f"the {image.width} x {image.height} picture has no transparent pixel, and this service "
        "can not remove backgrounds: send a PNG or WebP with a transparent background, or "
        f"{_REMEDY}",
        code="background_not_removed",
    )
