"""The z-buffer: which face wins, where its borders are, and that kernel and twin agree."""

from __future__ import annotations

import pytest
import torch

from training.people.rasterize import rasterize


def square(depth: float) -> torch.Tensor:
    """Two triangles over pixels 2..5 of an 8 px picture."""
    return torch.tensor(
        [[2.0, 2.0, depth], [6.0, 2.0, depth], [6.0, 6.0, depth], [2.0, 6.0, depth]]
    )


FACES = torch.tensor([[0, 1, 2], [0, 2, 3]])


def test_covers_pixels_whose_centre_is_inside() -> None:
    seen = rasterize(square(0.0)[None], FACES, 8)[0]
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:6, 2:6] = True
    assert torch.equal(seen >= 0, expected)


@pytest.mark.parametrize("order", [(0.5, -0.5), (-0.5, 0.5)])
def test_the_nearer_face_wins(order: tuple[float, float]) -> None:
    points = torch.cat([square(depth) for depth in order])[None]
    faces = torch.cat([FACES, FACES + 4])
    seen = rasterize(points, faces, 8)[0]
    near = order.index(min(order))
    assert set(seen[seen >= 0].tolist()) == {2 * near, 2 * near + 1}


def test_winding_does_not_matter_and_flat_faces_are_not_seen() -> None:
    points = square(0.0)[None]
    assert torch.equal(rasterize(points, FACES.flip(1), 8) >= 0, rasterize(points, FACES, 8) >= 0)
    assert (rasterize(points, torch.tensor([[0, 1, 1]]), 8) == -1).all()


def test_faces_outside_the_picture_are_cut() -> None:
    points = square(0.0)[None] - torch.tensor([4.0, 0.0, 0.0])
    seen = rasterize(points, FACES, 8)[0]
    assert (seen[2:6, :2] >= 0).all()
    assert (seen[:, 2:] == -1).all()


@pytest.mark.gpu
def test_kernel_draws_what_the_twin_draws() -> None:
    from training.people.generator import People
    from training.people.projection import project_views

    device = torch.device("cuda")
    people = People(device)
    mesh, _ = people.sample(4, torch.Generator(device).manual_seed(0))
    points = project_views(mesh.vertices, 256).flatten(0, 1)
    kernel = rasterize(points, mesh.faces, 256, kernel=True)
    assert (kernel != rasterize(points, mesh.faces, 256, kernel=False)).float().mean() < 1e-5
