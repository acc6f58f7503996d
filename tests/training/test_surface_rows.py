"""Rows of the ring give back what was drawn."""

from __future__ import annotations

import torch

from training.people.occupancy import summarise_surface
from training.picture_encoders import PictureEncoders
from training.run import Run
from training.surface_rows import SurfaceRows, collate, vertex_colors


def test_faithful_rows_are_the_surface(toy_run: Run) -> None:
    rows = SurfaceRows(toy_run, PictureEncoders.build(toy_run).eval().requires_grad_(False))
    people = toy_run.subjects.draw(2)
    batch = collate(rows.encode(people, faithful=True))
    mesh = people.mesh
    truth = summarise_surface(mesh.vertices, mesh.normals, vertex_colors(people), mesh.faces, 16)
    assert torch.equal(batch.sites.coords, truth.coords)
    assert batch.real.all()
    torch.testing.assert_close(batch.summary.normal, truth.normal, atol=2e-3, rtol=0)
    assert batch.corners.shape == (64 * len(truth.coords), 8)
    signs = batch.corners.view(-1, 512)
    crossed = (signs < 0).any(1) & (signs > 0).any(1)
    assert crossed.float().mean() > 0.9  # nearly every voxel of the surface has both sides
    known = batch.colors[..., 3] > 0
    assert known.flatten(1).any(1).all()
    assert batch.color_features.shape == batch.normal_features.shape


def test_voxels_with_errors_know_which_are_real(toy_run: Run) -> None:
    torch.manual_seed(0)
    rows = SurfaceRows(toy_run, PictureEncoders.build(toy_run).eval().requires_grad_(False))
    people = toy_run.subjects.draw(6)
    batch = collate(rows.encode(people))
    assert batch.real.any()
    assert not batch.real.all()
    assert (batch.summary.normal[~batch.real] == 0).all()
    assert len(batch.sites) == len(batch.real)
