"""The service over real HTTP, for those who use it from outside: client and command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "ingress"))  # its scripted jobs

from live_service import LiveService, live_service
from PIL import Image, ImageDraw
from sample_pictures import encoded


@pytest.fixture
def service(tmp_path: Path) -> Iterator[LiveService]:
    """Whose jobs succeed at once unless the test's script says otherwise."""
    with live_service(tmp_path / "service") as running:
        yield running


@pytest.fixture(scope="session")
def portrait() -> bytes:
    """A figure on transparent ground, as PNG."""
    picture = Image.new("RGBA", (96, 160))
    ImageDraw.Draw(picture).ellipse((20, 20, 76, 140), fill=(200, 150, 120, 255))
    return encoded(picture, "PNG")
