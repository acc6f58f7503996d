"""People in the frames of model.md 3: sides, mirroring, voxels, distances."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from training.people.generator import People
from training.people.materials import Surface, materials
from training.people.occupancy import occupancy, summarise_surface
from training.people.projection import project_photograph, project_views
from training.people.render import Mesh
from training.people.signed_distance import point_triangle_distance, signed_distance
from training.people.wardrobe import Material, Wardrobe

SIZE = 64


@pytest.fixture(scope="module")
def people() -> People:
    return People()


@pytest.fixture(scope="module")
def walkers(people: People) -> tuple[Mesh, Wardrobe]:
    return people.sample(2, torch.Generator().manual_seed(4), style="walking")


def test_the_same_seed_draws_the_same_people(people: People) -> None:
    first, second = (people.sample(1, torch.Generator().manual_seed(9))[0] for _ in range(2))
    assert torch.equal(first.vertices, second.vertices)


def test_people_fill_the_front_view(walkers: tuple[Mesh, Wardrobe]) -> None:
    vertices = walkers[0].vertices
    low, high = vertices.amin(1), vertices.amax(1)
    torch.testing.assert_close((high - low)[:, 2], torch.full((2,), 0.998))
    torch.testing.assert_close((low + high)[:, [0, 2]], torch.zeros(2, 2), atol=1e-5, rtol=0)
    assert low.amin() > -0.5
    assert high.amax() < 0.5


def test_a_point_to_the_left_is_at_the_right_of_views_0_2_and_4() -> None:
    """x is the subject's left; views 0 and 2 are both stored along +x, 1 and 3 along +y."""
    left_hand = torch.tensor([[[0.3, 0.1, 0.2]]])
    pixels = project_views(left_hand, 100)[0, :, 0]
    columns, rows, depth = pixels.unbind(-1)
    torch.testing.assert_close(columns[:4], torch.tensor([80.0, 60.0, 80.0, 60.0]))
    torch.testing.assert_close(rows[:4], torch.full((4,), 30.0))
    torch.testing.assert_close(depth, torch.tensor([0.1, -0.3, -0.1, 0.3, 0.1]))


def test_the_face_view_is_the_top_centre_third() -> None:
    corners = torch.tensor([[[-1 / 6, 0.0, 0.5], [1 / 6, 0.0, 1 / 6]]])
    face = project_views(corners, 96)[0, 4, :, :2]
    torch.testing.assert_close(face, torch.tensor([[0.0, 0.0], [96.0, 96.0]]), atol=1e-4, rtol=0)


def test_photographs_are_framed_by_the_subject(walkers: tuple[Mesh, Wardrobe]) -> None:
    pixels = project_photograph(walkers[0].vertices, torch.tensor([3.0, 20.0]), 100)
    low, high = pixels[..., :2].amin(1), pixels[..., :2].amax(1)
    torch.testing.assert_close((high - low).amax(1), torch.full((2,), 100.0))
    torch.testing.assert_close(low + high, torch.full((2, 2), 100.0), atol=1e-3, rtol=0)


def test_a_raised_left_arm_is_where_the_frames_say(people: People) -> None:
    mesh, wear = people.sample(3, torch.Generator().manual_seed(1), style="arms up")
    hand = (people.attributes[:, 0] > 0.29).nonzero()[:, 0]  # the tips of the left hand
    place = mesh.vertices[:, hand].mean(1)  # (6, 3)
    pictures = people.views(mesh, wear, SIZE, samples=1)
    for person, point in enumerate(place):
        column = int((point[0] + 0.5) * SIZE)
        row = int((0.5 - point[2]) * SIZE)
        around = pictures.mask[person, [0, 2], 0, row - 1 : row + 2, column - 1 : column + 2]
        assert (around.amax((1, 2)) == 1).all()


def test_opposite_views_have_the_same_outline_as_stored(
    people: People, walkers: tuple[Mesh, Wardrobe]
) -> None:
    mask = people.views(*walkers, SIZE, samples=1).mask
    assert torch.equal(mask[:, 0], mask[:, 2])
    assert torch.equal(mask[:, 1], mask[:, 3])


def test_normals_look_at_their_camera(people: People, walkers: tuple[Mesh, Wardrobe]) -> None:
    pictures = people.views(*walkers, SIZE, samples=1)
    toward = torch.tensor([[0, -1.0, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
    facing = (pictures.normal * toward[None, :, :, None, None]).sum(2)
    inside = pictures.mask[:, :, 0] > 0
    for view in range(5):
        assert facing[:, view][inside[:, view]].mean() > 0.5
    stored = pictures.normal_map_on_white()[:, 0]
    assert stored[:, 2][inside[:, 0]].mean() > 0.75  # B = -ny: the front faces -y
    assert (
        pictures.normal_map_on_white()[~(inside[:, :, None]).expand_as(pictures.normal)] == 1
    ).all()


def test_voxels_fill_the_silhouettes(people: People, walkers: tuple[Mesh, Wardrobe]) -> None:
    mesh, wear = walkers
    voxels = occupancy(mesh.vertices, mesh.faces, SIZE)
    mask = people.views(mesh, wear, SIZE, samples=1).mask[:, :, 0] > 0
    front = voxels.any(2).transpose(1, 2).flip(1)  # (B, row, column)
    right = voxels.any(1).transpose(1, 2).flip(1)
    for found, truth in ((front, mask[:, 0]), (right, mask[:, 1])):
        assert (truth & ~found).float().sum() <= 0.01 * truth.sum()
        grown = F.max_pool2d(truth[:, None].float(), 3, 1, 1)[:, 0] > 0
        assert (found & ~grown).sum() <= 0.01 * found.sum()  # fingers between pixel centres


def test_garments_cover_what_they_should(people: People, walkers: tuple[Mesh, Wardrobe]) -> None:
    wear = walkers[1].at(torch.zeros(people.body.vertices, dtype=torch.long))
    point = Surface.unpack(people.attributes)
    material = materials(point, wear)
    chest = (point.z - 0.72).abs() < 0.02
    chest &= point.trunk > 0.9
    assert (material[chest] == Material.TOP).all()
    assert (material[point.z < 0.02] == Material.SHOES).all()
    assert (material[point.z > 0.99] == Material.HAIR).all()
    hands = point.x.abs() > 0.3
    assert (material[hands] == Material.SKIN).all()


def sphere(radius: float, centre: tuple[float, float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    trimesh = pytest.importorskip("trimesh")
    ball = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    vertices = torch.tensor(ball.vertices, dtype=torch.float32) + torch.tensor(centre)
    return vertices, torch.tensor(ball.faces, dtype=torch.long)


def test_distances_of_overlapping_bodies_count_their_union() -> None:
    first, faces = sphere(0.2, (-0.1, 0.0, 0.0))
    second, _ = sphere(0.2, (0.1, 0.0, 0.0))
    vertices = torch.cat([first, second])[None]
    field = signed_distance(vertices, torch.cat([faces, faces + len(first)]), 32)[0]
    axis = torch.arange(33) / 32 - 0.5
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    each = [(points - torch.tensor([x, 0.0, 0.0])).norm(dim=-1) - 0.2 for x in (-0.1, 0.1)]
    truth = torch.minimum(*each) * 32
    sure = truth.abs() > 0.1
    assert torch.equal((field < 0)[sure], (truth < 0)[sure])
    near = (torch.maximum(*each) * 32 > 1) & (truth.abs() < 1)
    torch.testing.assert_close(field[near], truth[near], atol=0.1, rtol=0)


def test_distance_to_face_edge_and_corner() -> None:
    triangle = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    points = torch.tensor([[0.2, 0.2, 0.5], [0.5, -2.0, 0.0], [-3.0, -4.0, 0.0]])
    found = point_triangle_distance(points, triangle.expand(3, 3, 3))
    torch.testing.assert_close(found, torch.tensor([0.5, 2.0, 5.0]))


def test_summaries_describe_the_surface_in_each_voxel() -> None:
    vertices, faces = sphere(0.3, (0.0, 0.0, 0.0))
    normals = F.normalize(vertices, dim=1)
    colors = vertices + 0.5
    summary = summarise_surface(vertices[None], normals[None], colors[None], faces, 16)
    voxels = occupancy(vertices[None], faces, 16)
    assert torch.equal(summary.coords[:, 1:].long(), voxels[0].nonzero())
    places = (summary.coords[:, 1:] + 0.5 + summary.offset) / 16 - 0.5
    torch.testing.assert_close(
        places.norm(dim=1), torch.full((len(places),), 0.3), atol=0.02, rtol=0
    )
    torch.testing.assert_close(summary.color - 0.5, places, atol=1e-4, rtol=0)
