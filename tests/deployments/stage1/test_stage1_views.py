from __future__ import annotations

import numpy as np
import torch

from deployments.stage1.views import finish_views, to_bytes

H = 12


def test_the_photo_replaces_the_first_colour_view() -> None:
    rgba = np.zeros((H, H, 4), np.uint8)
    rgba[:6] = (200, 100, 0, 255)
    rgba[6:] = (200, 100, 0, 51)  # a fifth over white
    color, _ = finish_views(torch.zeros(10, 3, H, H), rgba)
    assert color.shape == (5, H, H, 3)
    assert color[0, 0, 0].tolist() == [200, 100, 0]
    assert color[0, 11, 0].tolist() == [244, 224, 204]
    assert not color[1:].any()


def test_only_the_face_normals_are_pasted_into_the_front() -> None:
    decoded = torch.zeros(10, 3, H, H)
    decoded[4] = 1.0  # face normals
    decoded[9] = 1.0  # face colours
    color, normal = finish_views(decoded, np.zeros((H, H, 4), np.uint8))
    assert (normal[0, :4, 4:8] == 255).all()
    assert normal[0].sum() == 4 * 4 * 3 * 255
    assert (color[0] == 255).all()  # a transparent photo is white, and nothing is pasted


def test_bytes_are_rounded_to_the_nearest() -> None:
    assert to_bytes(torch.tensor([0.0, 0.5 / 255, 0.499 / 255, 1.0])).tolist() == [0, 1, 0, 255]
