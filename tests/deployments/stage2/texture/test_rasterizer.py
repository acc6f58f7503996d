import numpy as np

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
