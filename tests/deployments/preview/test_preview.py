from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import trimesh

from deployments.contracts import GenerationOptions
from deployments.errors import GenerationError
from deployments.preview.pipeline import PreviewPipeline
from deployments.preview.solid import preview_mesh, voxel_solid
from deployments.stage2.mesh.topology import topology
from deployments.stage2.render import render_glb
from deployments.stage2.texture.views import VIEWS, foreground


def test_a_shell_of_voxels_is_filled(figure: Any) -> None:
    views = figure.multiview
    solid, low = voxel_solid(views.voxels, views.grid)
    center = (np.array([0.0, 0.0, -0.1]) + 0.5) * views.grid - low
    assert solid[tuple(center.astype(int))]
    assert solid.sum() > 1.3 * len(views.voxels)


def test_the_surface_is_closed_and_meets_the_silhouettes(figure: Any) -> None:
    views = figure.multiview
    masks = foreground(views.normal[:4])
    mesh = preview_mesh(views.voxels, views.grid, views.normal[:4])
    assert topology(mesh).watertight
    assert mesh.volume() == pytest.approx(figure.mesh.volume(), rel=0.2)
    for view, mask in zip(VIEWS, masks, strict=False):
        drawn = view.draw(mesh, mask.shape[0]).covered
        assert (drawn & mask).sum() / (drawn | mask).sum() > 0.93


def test_the_preview_looks_like_the_figure_from_a_side_that_no_picture_shows(figure: Any) -> None:
    options = GenerationOptions(texture_size=512)
    glb = PreviewPipeline()(figure.multiview, options)
    mesh = trimesh.load(io.BytesIO(glb), file_type="glb", force="mesh", process=False)
    assert mesh.vertices[:, 0].max() > 0.3  # the one arm is on the subject's left
    assert mesh.vertices[:, 0].min() > -0.2
    picture = render_glb(glb, [45], 96)[0].astype(float)
    drawn = (picture < 250).any(axis=-1)
    height = np.nonzero(drawn)[0]
    blue = picture[..., 2][drawn]
    assert np.corrcoef(height, blue)[0, 1] < -0.9  # blue grows upward


def test_a_texture_of_another_size_is_made(figure: Any) -> None:
    glb = PreviewPipeline()(figure.multiview, GenerationOptions(texture_size=256, target_faces=900))
    mesh = trimesh.load(io.BytesIO(glb), file_type="glb", force="mesh", process=False)
    assert mesh.visual.material.baseColorTexture.size == (256, 256)
    assert len(mesh.faces) == pytest.approx(900, abs=2)


def test_no_voxels_and_no_common_subject_are_errors(figure: Any) -> None:
    options = GenerationOptions(texture_size=256)
    nothing = replace(figure.multiview, voxels=np.zeros((0, 3), np.int16))
    with pytest.raises(GenerationError) as caught:
        PreviewPipeline()(nothing, options)
    assert caught.value.code == "empty_structure"
    blank = replace(figure.multiview, normal=np.full_like(figure.multiview.normal, 255))
    with pytest.raises(GenerationError) as caught:
        PreviewPipeline()(blank, options)
    assert caught.value.code == "empty_mesh"


def test_voxels_that_only_repeat_the_silhouettes_are_carved_by_the_normals(figure: Any) -> None:
    """A hull of silhouettes has square cross sections; the figure's are round."""
    views = figure.multiview
    masks = foreground(views.normal[:4])
    size, grid = masks.shape[1], views.grid
    place = ((np.arange(grid) + 0.5) * size / grid).astype(int)
    flat = [mask[np.ix_(size - 1 - place, place)].T for mask in masks]  # (column, height)
    hull = flat[0][:, None] & flat[2][:, None] & flat[1][None] & flat[3][None]
    carved = preview_mesh(np.argwhere(hull).astype(np.int16), grid, views.normal[:4])
    truth = figure.mesh.volume()
    assert hull.sum() / grid**3 > 1.2 * truth
    assert carved.volume() == pytest.approx(truth, rel=0.12)
