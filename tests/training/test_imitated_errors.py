"""Imitated errors stay near the truth, and some people are spared."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from training.imitated_errors import turned_sides, worn, wrong_latents, wrong_voxels


def shells(people: int) -> torch.Tensor:
    place = torch.arange(32) - 15.5
    radius = (place[:, None, None] ** 2 + place[:, None] ** 2 + place**2).sqrt()
    return ((radius - 9).abs() < 0.7).expand(people, -1, -1, -1)


def test_voxels_come_and_go_near_the_surface() -> None:
    torch.manual_seed(0)
    truth = shells(24)
    found = wrong_voxels(truth)
    near = F.max_pool3d(truth[:, None].float(), 3, 1, 1)[:, 0] > 0
    assert not (found & ~near).any()
    count = truth[0].sum()
    missing, added = ((a & ~b).flatten(1).sum(1) for a, b in ((truth, found), (found, truth)))
    assert missing.max() <= 0.26 * count
    assert added.max() <= 0.36 * count
    assert missing.max() > 0.15 * count
    assert added.max() > 0.2 * count
    assert ((missing == 0) & (added == 0)).any()


def test_latents_share_errors_with_their_neighbours() -> None:
    torch.manual_seed(0)
    coords = shells(16).nonzero().int()
    deviation = torch.tensor([1.0, 3.0])
    error = wrong_latents(torch.zeros(len(coords), 2), coords, 16, deviation)
    spread = error.std(0)
    torch.testing.assert_close(spread[1] / spread[0], torch.tensor(3.0), atol=0.2, rtol=0)
    by_person = torch.stack([error[coords[:, 0] == p].std() for p in range(16)])
    assert (by_person == 0).any()
    assert by_person.max() > 0.5
    assert torch.corrcoef(pairs(error, coords))[0, 1] > 0.2


def pairs(error: torch.Tensor, coords: torch.Tensor) -> torch.Tensor:
    """(2, P) errors of voxels that follow each other along z."""
    step = (coords[1:] - coords[:-1]).tolist()
    following = torch.tensor([difference == [0, 0, 0, 1] for difference in step])
    return torch.stack([error[:-1][following, 0], error[1:][following, 0]])


def test_only_side_views_are_moved_and_pictures_stay_pictures() -> None:
    torch.manual_seed(2)
    pictures = torch.rand(8, 2, 4, 3, 64, 64)
    moved = turned_sides(pictures)
    assert torch.equal(moved[:, :, 0::2], pictures[:, :, 0::2])
    changed = (moved != pictures).flatten(1).any(1)
    assert changed.any()
    assert not changed.all()
    soft = worn(pictures)
    assert soft.shape == pictures.shape
    assert soft.min() >= 0
    assert soft.max() <= 1
    assert soft.std() < pictures.std()
