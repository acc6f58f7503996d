"""People whose shape and colour are known everywhere: what the geometry back end should return.

A subject is a held-out body of the training generator in a pose, dressed in paint (no skirts, no
long hair: those are open sheets without a volume). The mesh decoder's output is imitated by exact
distances at the corners of the voxels that a real one emits: all children of the occupied cells and
a margin around them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from deployments.contracts import MultiviewResult
from deployments.stage2.mesh.dual_tables import CORNERS
from deployments.stage2.mesh.surface import Mesh
from training.people.generator import People
from training.people.light import studio_light
from training.people.projection import project_views
from training.people.randomness import Dice
from training.people.render import Mesh as PaintedMesh
from training.people.render import render
from training.people.wardrobe import Wardrobe, sample_wardrobe

SIZE = 768
GRID = 64
CHILDREN = 4  # the decoder's two subdivisions: 64 -> 256
RESOLUTION = GRID * CHILDREN
SHELL = 1  # cells around the occupied ones that the structure also holds
STYLES = ("relaxed", "walking", "gesture", "relaxed", "leaning")
SURFACE_POINTS = 2_000_000

# Azimuth and elevation in degrees of directions that no picture shows.
UNSEEN = ((45, 0), (135, 15), (225, 0), (315, 15), (20, 35), (200, 35))


@dataclass(frozen=True)
class Picture:
    """A rendering of the truth."""

    color: NDArray[np.float32]  # (H, H, 3) 0..1 on white
    mask: NDArray[np.float32]  # (H, H) coverage 0..1


@dataclass(frozen=True)
class Subject:
    """One person: the exact surface, how Stage 1 would show it, how the decoder would emit it."""

    surface: Mesh
    multiview: MultiviewResult
    views: tuple[Picture, ...]  # front, right, back, left, face
    unseen: tuple[Picture, ...]  # in the order of UNSEEN
    coords: torch.Tensor  # (N, 3) voxels at 256
    features: torch.Tensor  # (N, 101)


def project_direction(
    points: torch.Tensor, azimuth: float, elevation: float, size: int
) -> torch.Tensor:
    """(V, 3) -> (V, 3): column, row (pixel centres at .5) and depth for an orthographic camera.

    Azimuth 0 looks at the front, 90 at the subject's left side; elevation looks down from above.
    """
    a, e = np.radians(azimuth), np.radians(elevation)
    toward = torch.tensor(
        [np.sin(a) * np.cos(e), -np.cos(a) * np.cos(e), np.sin(e)], dtype=points.dtype
    )
    right = torch.tensor([np.cos(a), np.sin(a), 0.0], dtype=points.dtype)
    up = torch.linalg.cross(toward, right)
    return torch.stack(
        ((points @ right + 0.5) * size, (0.5 - points @ up) * size, -(points @ toward)), dim=-1
    )


def make_subject(people: People, number: int) -> Subject:
    """The subject of a number; the same on every machine."""
    generator = torch.Generator().manual_seed(1000 + number)
    wear = sample_wardrobe(Dice(1, generator))
    no = torch.zeros(1, dtype=torch.bool)
    wear = replace(wear, skirt=no, locks=no, open_front=no)
    painted, wear = people.sample(
        1, generator, held_out=True, style=STYLES[number % len(STYLES)], wear=wear
    )
    faces, count = people.body.faces, people.body.vertices
    body = PaintedMesh(
        painted.vertices[:, :count],
        painted.normals[:, :count],
        painted.attributes[:, :count],
        faces,
    )
    surface = Mesh(
        body.vertices[0].numpy().astype(np.float32), faces.numpy().astype(np.int32)
    ).compacted()
    pictures = _draw(body, wear, project_views(body.vertices, 2 * SIZE))
    unseen = _draw(
        body,
        wear,
        torch.stack([project_direction(body.vertices[0], a, e, 2 * SIZE) for a, e in UNSEEN])[None],
    )
    cells = _cells(surface)
    coords = (cells[:, None] * CHILDREN + np.argwhere(np.ones((CHILDREN,) * 3))).reshape(-1, 3)
    multiview = MultiviewResult(
        np.stack([_bytes(color) for color, _, _ in pictures]),
        np.stack([_bytes(normal) for _, normal, _ in pictures]),
        cells.astype(np.int16),
        GRID,
        number,
        0,
    )
    return Subject(
        surface,
        multiview,
        tuple(Picture(color, mask) for color, _, mask in pictures),
        tuple(Picture(color, mask) for color, _, mask in unseen),
        torch.from_numpy(coords),
        torch.from_numpy(_features(surface, coords)),
    )


def shifted(multiview: MultiviewResult, pixels: int, seed: int) -> MultiviewResult:
    """Every picture moved by `pixels` in a random direction; the face moves with the front."""
    angles = np.random.default_rng(seed).uniform(0, 2 * np.pi, 4)
    moves = [(pixels * np.cos(a), pixels * np.sin(a)) for a in angles]
    moves.append((3 * moves[0][0], 3 * moves[0][1]))
    color, normal = (
        np.stack(
            [
                ndimage.shift(picture, (row, column, 0), order=1, mode="constant", cval=255)
                for picture, (column, row) in zip(stack, moves, strict=True)
            ]
        )
        for stack in (multiview.color, multiview.normal)
    )
    return replace(multiview, color=color, normal=normal)


def _bytes(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    return (picture * 255 + 0.5).clip(0, 255).astype(np.uint8)


def _draw(
    body: PaintedMesh, wear: Wardrobe, points: torch.Tensor
) -> list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]]:
    """Colour and normal map on white (H, H, 3), coverage (H, H), of each projection."""
    drawn = []
    for k in range(points.shape[1]):
        lights = [studio_light(1, points.device)]
        pictures = render(body, points[:, k : k + 1], wear, lights, SIZE, samples=2)
        color, normal = pictures.color_on_white()[0, 0], pictures.normal_map_on_white()[0, 0]
        drawn.append(
            (
                color.permute(1, 2, 0).numpy(),
                normal.permute(1, 2, 0).numpy(),
                pictures.mask[0, 0, 0].numpy(),
            )
        )
    return drawn


def sample_surface(
    mesh: Mesh, count: int, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Evenly spread points (count, 3) and the unit normals of their faces."""
    rng = np.random.default_rng(seed)
    normals = mesh.face_normals()
    area = np.linalg.norm(normals, axis=1)
    face = rng.choice(len(area), count, p=area / area.sum())
    a, b = np.sqrt(rng.random(count))[:, None], rng.random(count)[:, None]
    corner = mesh.vertices[mesh.faces[face]]
    points = corner[:, 0] * (1 - a) + corner[:, 1] * (a * (1 - b)) + corner[:, 2] * (a * b)
    unit = normals[face] / np.maximum(area[face], 1e-20)[:, None]
    return points.astype(np.float32), unit.astype(np.float32)


def _cells(surface: Mesh) -> NDArray[np.int64]:
    """Cells of the 64 grid that the surface touches, and SHELL cells around them, ascending."""
    points, _ = sample_surface(surface, SURFACE_POINTS // 4, seed=1)
    occupied = np.zeros((GRID,) * 3, bool)
    occupied[tuple(((points + 0.5) * GRID).astype(int).clip(0, GRID - 1).T)] = True
    return np.argwhere(ndimage.binary_dilation(occupied, iterations=SHELL))


def _features(surface: Mesh, coords: NDArray[np.int64]) -> NDArray[np.float32]:
    """The decoder's channels: signed distances at the eight corners of every voxel, rest zero."""
    points, normals = sample_surface(surface, SURFACE_POINTS)
    corners = (coords[:, None] + CORNERS).reshape(-1, 3)
    side = RESOLUTION + 1
    keys, row = np.unique(
        (corners[:, 0] * side + corners[:, 1]) * side + corners[:, 2], return_inverse=True
    )
    position = np.stack((keys // side**2, keys // side % side, keys % side), 1) / RESOLUTION - 0.5
    tree = cKDTree(points, balanced_tree=False, compact_nodes=False)
    _, nearest = tree.query(position, workers=-1)
    # Distance to the plane of the nearest sample: exact on flat faces, whatever the sampling.
    distance = ((position - points[nearest]) * normals[nearest]).sum(axis=1)
    features = np.zeros((len(coords), 101), np.float32)
    features[:, 0:8] = distance[row].reshape(-1, 8) + 1.0 / RESOLUTION
    return features
