"""Depth from normal pictures: what a silhouette can not tell about the shape inside it.

Four silhouettes leave a body with rectangular cross sections. The normal pictures know how the
surface turns; integrated, they say how deep it lies behind the hull.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from deployments.contracts import UInt8
from deployments.stage2.mesh.surface import Float64
from deployments.stage2.texture.views import View

STEEPEST = 0.15  # cosine to the camera below which a normal's slope is not believed
JUMP = 0.03  # of the cube: neighbours whose hulls differ by more are different limbs
ROUNDS = 6
# Pull toward the hull from behind it and from in front of it. Weaker ones let the errors of normal
# pictures add up over a whole limb; stronger ones leave the hull as it is.
INSIDE, OUTSIDE = 0.01, 0.5


def relief(
    normal: UInt8, foreground: NDArray[np.bool_], view: View, hull: Float64, step: float
) -> tuple[Float64, Float64]:
    """Height toward the camera of the surface seen in one view, and the cosine of its slope.

    Least squares over neighbouring cells: heights differ as the normals say, and stay behind the
    hull but touch it. The touch is an asymmetric pull, found by reweighting.

    Args:
        normal: (C, R, 3) the normal picture at the cells, column first.
        foreground: (C, R) cells to solve for.
        view: which of the four full views.
        hull: (C, R) height of the hull's front at each cell, of the cube.
        step: width of a cell, of the cube.

    Returns:
        Heights (C, R), infinite outside the foreground, and cosines (C, R), 0..1.
    """
    red, green, blue = np.moveaxis(normal.astype(np.float64) / 127.5 - 1.0, -1, 0)
    world = (red, -blue, green)  # stored as nx, nz, -ny (geometry.md 2)
    toward = sum(n * t for n, t in zip(world, view.toward_camera, strict=True))
    cosine = np.clip(toward, STEEPEST, 1.0)
    slope = (-world[view.column_axis] / cosine, -world[2] / cosine)  # along columns, along z

    hull = np.where(foreground, hull, 0.0)
    number = np.full(foreground.shape, -1)
    number[foreground] = np.arange(foreground.sum())
    unknowns = int(foreground.sum())
    left, right, rise, trust = [], [], [], []
    for axis in (0, 1):
        first = tuple(slice(None, -1) if a == axis else slice(None) for a in (0, 1))
        second = tuple(slice(1, None) if a == axis else slice(None) for a in (0, 1))
        linked = foreground[first] & foreground[second]
        linked &= np.abs(hull[first] - hull[second]) < JUMP
        left.append(number[first][linked])
        right.append(number[second][linked])
        rise.append(((slope[axis][first] + slope[axis][second]) / 2 * step)[linked])
        trust.append((np.minimum(cosine[first], cosine[second]) ** 2)[linked])
    a, b = np.concatenate(left), np.concatenate(right)
    weight, target = np.concatenate(trust), np.concatenate(rise)
    row = np.arange(len(a))
    difference = sparse.coo_matrix(
        (np.repeat((1.0, -1.0), len(a)), (np.tile(row, 2), np.concatenate((b, a)))),
        shape=(len(a), unknowns),
    ).tocsr()
    normal_matrix = difference.T @ sparse.diags_array(weight) @ difference
    right_side = difference.T @ (weight * target)
    anchor = hull[foreground]
    pull = np.full(unknowns, INSIDE)
    height = anchor
    for _ in range(ROUNDS):
        height = spsolve(
            (normal_matrix + sparse.diags_array(pull)).tocsc(), right_side + pull * anchor
        )
        pull = np.where(height > anchor, OUTSIDE, INSIDE)

    heights = np.full(foreground.shape, np.inf)
    heights[foreground] = height
    return heights, ndimage.gaussian_filter(cosine, 1.0)
