import numpy as np
import pytest
import torch

from deployments.stage2.texture.device import raster as device_raster
from deployments.stage2.texture.rasterizer import interpolate, rasterize

X = np.array([0.0, 10.0, 0.0])
Y = np.array([0.0, 0.0, 10.0])
FACE = np.array([[0, 1, 2]], np.int32)


def test_pixel_centres_inside_the_triangle_are_covered() -> None:
    raster = rasterize(X, Y, np.zeros(3), FACE, (12, 12))
    row, column = np.mgrid[:12, :12]
    assert np.array_equal(raster.covered, row + column <= 10)


def test_values_are_linear_across_a_triangle() -> None:
    raster = rasterize(X, Y, np.zeros(3), FACE, (12, 12))
    values = interpolate(raster, FACE, np.stack((X, Y), axis=1).astype(np.float32))
    row, column = np.nonzero(raster.covered)
    assert np.allclose(values, np.stack((column, row), axis=1), atol=1e-5)


def test_the_nearer_triangle_wins_in_any_order_and_winding() -> None:
    x, y = np.tile(X, 2), np.tile(Y, 2)
    depth = np.array([1.0, 1.0, 1.0, 0.5, 0.5, 2.5])
    for faces in ([[0, 1, 2], [3, 4, 5]], [[3, 5, 4], [0, 2, 1]]):
        raster = rasterize(x, y, depth, np.array(faces, np.int32), (12, 12))
        near = np.where(raster.covered, raster.depth, 0.0)
        row = np.arange(12)[:, None]
        expected = np.minimum(1.0, 0.5 + 0.2 * row) * raster.covered
        assert np.allclose(near, expected, atol=1e-6)


def test_triangles_outside_the_picture_and_degenerate_ones_draw_nothing() -> None:
    x = np.array([-30.0, -20.0, -30.0, 5.0, 5.0, 5.0])
    y = np.array([0.0, 0.0, 10.0, 0.0, 5.0, 9.0])
    faces = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
    assert not rasterize(x, y, np.zeros(6), faces, (12, 12)).covered.any()


def test_tensor_operations_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triangles of all sizes, over each other, partly outside, in more than one portion."""
    monkeypatch.setattr(device_raster, "CANDIDATES", 500)
    rng = np.random.default_rng(0)
    middle = rng.uniform(-5, 45, (60, 1, 2))
    points = np.concatenate(
        (middle + rng.normal(0, 6, (60, 3, 2)), rng.uniform(-1, 1, (60, 3, 1))), axis=2
    ).reshape(-1, 3)
    faces = np.arange(180, dtype=np.int32).reshape(-1, 3)
    values = rng.random((180, 4)).astype(np.float32)
    loops = rasterize(*points.T, faces, (30, 40))
    tensors = [torch.from_numpy(points), torch.from_numpy(faces).long()]
    drawn = device_raster.rasterize(*tensors, (30, 40))
    assert np.array_equal(drawn.face.numpy(), loops.face)
    assert np.allclose(drawn.depth.numpy(), loops.depth)
    found = device_raster.interpolate(drawn, *tensors, torch.from_numpy(values))
    assert np.allclose(found.numpy(), interpolate(loops, faces, values), atol=1e-5)


def test_tensor_operations_draw_nothing_without_triangles() -> None:
    points, faces = torch.zeros(1, 3, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.int64)
    assert not device_raster.rasterize(points, faces, (8, 8)).covered.any()
