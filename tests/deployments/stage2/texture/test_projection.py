"""The compiled gather and its tensor form add the same colours with the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from deployments.stage2.texture.borders import confidence
from deployments.stage2.texture.device.gather import gather as gather_tensors
from deployments.stage2.texture.drawing import view_depth
from deployments.stage2.texture.projection import ColourSums, Sight, Texels, gather
from deployments.stage2.texture.views import VIEWS, foreground

CPU = torch.device("cpu")


def _sight(figure: Any, number: int, shift: tuple[float, float]) -> Sight:
    view, size = VIEWS[number], figure.multiview.normal.shape[1]
    depth = view_depth(figure.mesh, view, size, CPU)
    shown = torch.from_numpy(foreground(figure.multiview.normal[number]))
    picture = torch.from_numpy(figure.multiview.color[number])
    return Sight(
        view,
        picture,
        confidence(view, depth, shown, np.array(shift)),
        torch.where(depth.isfinite(), depth, -torch.inf),
        shift,
    )


def _texels(figure: Any) -> Texels:
    mesh = figure.mesh
    normals = torch.from_numpy(mesh.vertex_normals().astype(np.float32))
    return Texels(torch.from_numpy(mesh.vertices), normals)


@pytest.mark.parametrize("number", range(5))
def test_both_forms_gather_the_same(figure: Any, number: int) -> None:
    texels, sight = _texels(figure), _sight(figure, number, (0.4, -0.3))
    loops, tensors = (ColourSums.empty(len(texels.position), CPU) for _ in range(2))
    gather(texels, sight, loops)
    gather_tensors(texels.position, texels.normal, sight, tensors.colour, tensors.weight)
    assert (loops.weight > 0).float().mean() > 0.02
    assert torch.allclose(tensors.weight, loops.weight, atol=2e-3)
    assert torch.allclose(tensors.colour, loops.colour, atol=0.5)


def test_a_texel_takes_the_colour_that_the_picture_shows_there(figure: Any) -> None:
    texels = _texels(figure)
    sums = ColourSums.empty(len(texels.position), CPU)
    gather(texels, _sight(figure, 0, (0.0, 0.0)), sums)
    seen = sums.weight > 0.5
    found = (sums.colour[seen] / sums.weight[seen, None]).numpy()
    assert np.abs(found - figure.paint(texels.position[seen].numpy())).max() < 6.0
    assert (texels.normal[seen, 1] < 0).all()  # the front picture colours what faces -y
