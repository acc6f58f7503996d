from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from deployments.errors import GenerationError
from deployments.stage2.compiled import compiled, in_bands
from deployments.stage2.gaussians import Gaussians
from deployments.stage2.mesh.cleaning import decimate
from deployments.stage2.mesh.unwrap import unwrap
from deployments.stage2.texture.bake import bake
from deployments.stage2.texture.drawing import surface_texels
from deployments.stage2.warm_up import warm_up

SIZE = 256


def _errors(figure: Any, **changes: Any) -> tuple[np.ndarray, Any]:
    """Colour error of every texel of the figure's baked texture, 0..255, and the texture."""
    mesh = decimate(figure.mesh, target_faces=3000)
    atlas = unwrap(mesh, SIZE)
    views = replace(figure.multiview, **{k: v for k, v in changes.items() if k != "gaussians"})
    texture = bake(mesh, atlas, views.color, views.normal, SIZE, gaussians=changes.get("gaussians"))
    texels, known = surface_texels(mesh, atlas, SIZE, torch.device("cpu"))
    return np.abs(texture.pixels[known] - figure.paint(texels.position.numpy())), texture


def test_colours_land_where_the_pictures_show_them(figure: Any) -> None:
    error, texture = _errors(figure)
    assert texture.seen > 0.9
    assert np.median(error) < 2.0
    assert np.percentile(error, 99) < 12.0


def test_a_picture_in_its_camera_orientation_would_be_wrong(figure: Any) -> None:
    """Flipping the stored back and left pictures, as a camera sees them, must hurt."""
    flipped = {
        name: np.concatenate((array[:2], array[2:4, :, ::-1], array[4:]))
        for name, array in (("color", figure.multiview.color), ("normal", figure.multiview.normal))
    }
    error, _ = _errors(figure, **flipped)
    assert error.mean() > 4 * _errors(figure)[0].mean()


def test_a_shifted_view_is_moved_back(figure: Any) -> None:
    shifted = {
        name: np.concatenate((array[:2], np.roll(array[2:3], 1, axis=2), array[3:]))
        for name, array in (("color", figure.multiview.color), ("normal", figure.multiview.normal))
    }
    error, texture = _errors(figure, **shifted)
    assert texture.shifts[2] == pytest.approx((1.0, 0.0), abs=0.15)
    assert np.median(error) < 2.0


def test_unseen_texels_take_the_gaussians_colour(figure: Any) -> None:
    """Only the front picture shows anything; the back comes from the Gaussians, all green."""
    blank = figure.multiview.normal.copy()
    blank[1:] = 255
    points = figure.mesh.vertices[::5]
    green = Gaussians(
        points,
        np.full((len(points), 3), 0.02, np.float32),
        np.tile(np.array([1, 0, 0, 0], np.float32), (len(points), 1)),
        np.ones(len(points), np.float32),
        np.tile(np.array([0, 1, 0], np.float32), (len(points), 1)),
    )
    _, texture = _errors(figure, normal=blank, gaussians=green)
    assert 0.2 < texture.seen < 0.6
    assert (texture.pixels == (0, 255, 0)).all(axis=2).mean() > 0.2


def test_pictures_that_show_nothing_are_an_error(figure: Any) -> None:
    with pytest.raises(GenerationError, match="none of the five pictures") as caught:
        _errors(figure, normal=np.full_like(figure.multiview.normal, 255))
    assert caught.value.code == "nothing_to_bake"


def test_warming_up_works_without_any_subject() -> None:
    warm_up()


def test_loops_compile_where_no_cache_can_be_written() -> None:
    """Code without a source file has no cache location; numba refuses to cache it."""
    names: dict[str, Any] = {}
    exec("def double(values, start, stop):\n    values[start:stop] *= 2\n", names)
    double = compiled(names["double"])
    values = np.ones(1000)
    in_bands(1000, lambda start, stop: double(values, start, stop))
    assert (values == 2).all()


@pytest.mark.gpu
def test_a_gpu_bakes_the_same_texture(figure: Any) -> None:
    mesh = decimate(figure.mesh, target_faces=3000)
    atlas = unwrap(mesh, SIZE)
    views = figure.multiview
    points = mesh.vertices[::2]
    gaussians = Gaussians(
        points,
        np.full((len(points), 3), 0.02, np.float32),
        np.tile(np.array([1, 0, 0, 0], np.float32), (len(points), 1)),
        np.ones(len(points), np.float32),
        (points + 0.5).clip(0, 1),
    )
    on_cpu, on_gpu = (
        bake(mesh, atlas, views.color, views.normal, SIZE, gaussians=gaussians, device=device)
        for device in ("cpu", "cuda")
    )
    assert on_gpu.shifts == pytest.approx(on_cpu.shifts, abs=1e-3)
    assert on_gpu.seen == pytest.approx(on_cpu.seen, abs=2e-3)
    difference = np.abs(on_gpu.pixels.astype(int) - on_cpu.pixels).max(axis=-1)
    assert (difference <= 2).mean() > 0.99
