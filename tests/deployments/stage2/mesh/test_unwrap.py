import numpy as np
import pytest
from analytic_voxels import ball

from deployments.stage2.mesh.extraction import extract_mesh
from deployments.stage2.mesh.unwrap import slab_count, unwrap


def test_the_atlas_is_the_same_surface_without_overlap() -> None:
    mesh = extract_mesh(*ball(), 32, colours=False)
    atlas = unwrap(mesh, 256)
    assert atlas.uv.min() >= 0
    assert atlas.uv.max() <= 1
    unrolled = np.sort(atlas.source[atlas.faces], axis=1)
    assert sorted(map(tuple, unrolled)) == sorted(map(tuple, np.sort(mesh.faces, axis=1)))
    corners = atlas.uv[atlas.faces].astype(np.float64)
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / 2
    assert 0.25 < area < 1.0  # overlapping charts would exceed the square


@pytest.mark.parametrize(
    ("faces", "slabs"), [(60, 1), (2_000, 8), (30_000, 16), (60_000, 16), (120_000, 32)]
)
def test_slabs_suit_the_mesh(faces: int, slabs: int) -> None:
    assert slab_count(faces) == slabs
