from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from deployments.errors import BackendError, InputError
from deployments.preprocess.matting import choose_matting

OPAQUE = Image.new("RGBA", (2000, 1000), (9, 9, 9, 255))


@pytest.fixture
def no_rembg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rembg", None)


@pytest.fixture
def rembg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """A module with rembg's three names; the weights of the real one can not be had offline."""
    package, sessions, u2net = (
        ModuleType(name) for name in ("rembg", "rembg.sessions", "rembg.sessions.u2net")
    )

    class U2netSession:
        @classmethod
        def u2net_home(cls) -> str:
            return str(tmp_path)

        @classmethod
        def name(cls) -> str:
            return "u2net"

    def remove(image: Image.Image, session: str) -> Image.Image:
        assert image.mode == "RGB"
        assert session == "session of u2net"
        return Image.merge("RGBA", (*image.split(), Image.new("L", image.size, 128)))

    contents: dict[str, Any] = {
        "remove": remove,
        "new_session": lambda name: f"session of {name}",
    }
    vars(package).update(contents)
    vars(u2net)["U2netSession"] = U2netSession
    for module in (package, sessions, u2net):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return package


@pytest.mark.usefixtures("no_rembg")
def test_auto_without_rembg_refuses_with_both_ways_out() -> None:
    with pytest.raises(InputError, match="transparent background, or install it with") as caught:
        choose_matting("auto")(OPAQUE)
    assert caught.value.code == "background_not_removed"
    assert "2000 x 1000" in caught.value.message


@pytest.mark.usefixtures("no_rembg")
def test_rembg_insisted_on_fails_at_once() -> None:
    with pytest.raises(BackendError, match=r"does not import here.*synchuman-serve\[matting\]"):
        choose_matting("rembg")


@pytest.mark.usefixtures("rembg")
def test_weights_that_are_not_there_are_never_fetched() -> None:
    with pytest.raises(BackendError, match=r"u2net\.onnx, which are not there.*rembg d u2net"):
        choose_matting("rembg")
    with pytest.raises(InputError):
        choose_matting("auto")(OPAQUE)


@pytest.mark.usefixtures("rembg")
def test_rembg_sees_at_most_1024_pixels(tmp_path: Path) -> None:
    (tmp_path / "u2net.onnx").touch()

    result = choose_matting("auto")(OPAQUE)

    assert result.size == (1024, 512)
    assert result.getchannel("A").getextrema() == (128, 128)


@pytest.mark.usefixtures("rembg")
def test_none_never_uses_rembg(tmp_path: Path) -> None:
    (tmp_path / "u2net.onnx").touch()
    with pytest.raises(InputError):
        choose_matting("none")(OPAQUE)


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(BackendError, match="choose one of auto, rembg, none"):
        choose_matting("magic")
