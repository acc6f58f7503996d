from __future__ import annotations

import pytest
import torch

from deployments.layers.sparse.neighbours import OFFSETS, neighbour_table, pack_keys
from deployments.layers.sparse.sites import Sites
from deployments.layers.sparse.tensor import SparseTensor


def random_sites(grid: int = 6, share: float = 0.3, batch: int = 2, seed: int = 0) -> Sites:
    generator = torch.Generator().manual_seed(seed)
    occupied = torch.rand(batch, grid, grid, grid, generator=generator) < share
    coords = occupied.nonzero().int()
    shuffled = []
    for item in range(batch):  # rows of an item are contiguous but in no order
        rows = coords[coords[:, 0] == item]
        shuffled.append(rows[torch.randperm(len(rows), generator=generator)])
    return Sites(torch.cat(shuffled))


def rows_by_place(sites: Sites) -> dict[tuple[int, ...], int]:
    return {tuple(place): row for row, place in enumerate(sites.coords.tolist())}


def test_neighbour_table_points_to_the_voxel_next_door_or_to_nothing() -> None:
    sites = random_sites()
    rows = rows_by_place(sites)
    for table, (dx, dy, dz) in zip(sites.neighbours.tolist(), OFFSETS, strict=True):
        for found, (b, x, y, z) in zip(table, sites.coords.tolist(), strict=True):
            assert found == rows.get((b, x + dx, y + dy, z + dz), -1)


def test_table_of_children_equals_a_search() -> None:
    children = random_sites(grid=4).subdivided
    assert torch.equal(children.neighbours, neighbour_table(pack_keys(children.coords)))
    twice = children.subdivided
    assert torch.equal(twice.neighbours, neighbour_table(pack_keys(twice.coords)))


def test_children_follow_their_parent_in_the_order_of_the_official_model() -> None:
    sites = Sites(torch.tensor([[0, 1, 2, 3], [1, 0, 0, 0]], dtype=torch.int32))
    children = sites.subdivided.coords
    assert children.dtype == torch.int32
    assert children[:3].tolist() == [[0, 2, 4, 6], [0, 2, 4, 7], [0, 2, 5, 6]]
    assert children[15].tolist() == [1, 1, 1, 1]


def test_coarse_sites_are_sorted_and_know_their_children() -> None:
    sites = random_sites()
    coarse = sites.coarse
    assert coarse.sites.coords.tolist() == sorted(coarse.sites.coords.tolist())
    halved = sites.coords.clone()
    halved[:, 1:] //= 2
    assert torch.equal(coarse.sites.coords[coarse.parent], halved)
    for parent, children in enumerate(coarse.children.tolist()):
        expected = (coarse.parent == parent).nonzero()[:, 0].tolist()
        assert sorted(child for child in children if child >= 0) == expected


@pytest.mark.parametrize("shift", [0, 2])
def test_windows_hold_exactly_the_rows_of_their_cube(shift: int) -> None:
    sites = random_sites(grid=10)
    windows = sites.windows(4, shift)
    assert sum(windows.lengths) == len(sites)
    assert torch.equal(windows.order[windows.place], torch.arange(len(sites)))
    cubes: dict[tuple[int, ...], list[int]] = {}
    for row, (b, *place) in enumerate(sites.coords.tolist()):
        cubes.setdefault((b, *((axis + shift) // 4 for axis in place)), []).append(row)
    found = [rows.tolist() for rows in windows.order.split(windows.lengths)]
    assert found == [cubes[cube] for cube in sorted(cubes)]


def test_everything_is_computed_once_for_a_shape() -> None:
    sites = random_sites()
    assert sites.neighbours is sites.neighbours
    assert sites.windows(4, 2) is sites.windows(4, 2)
    assert sites.coarse is sites.coarse
    x = SparseTensor(sites, torch.zeros(len(sites), 3))
    assert x.with_feats(x.feats + 1).sites is sites


def test_lengths_count_empty_batch_items_too() -> None:
    coords = torch.tensor([[0, 1, 1, 1], [2, 1, 1, 1], [2, 1, 1, 2]], dtype=torch.int32)
    assert Sites(coords).lengths == (1, 0, 2)
    assert Sites(coords, batch=4).lengths == (1, 0, 2, 0)
    assert Sites(coords, batch=4).subdivided.lengths == (8, 0, 16, 0)


def test_repeated_sites_do_not_touch_their_copies() -> None:
    sites = random_sites()
    both = sites.repeated(2)
    n = len(sites)
    assert both.lengths == sites.lengths * 2
    first, second = both.neighbours.split(n, dim=1)
    assert torch.equal(first, sites.neighbours)
    assert torch.equal(second, torch.where(first >= 0, first + n, -1))


def test_no_sites_have_empty_tables() -> None:
    sites = Sites(torch.empty(0, 4, dtype=torch.int32), batch=1)
    assert sites.neighbours.shape == (27, 0)
    assert sites.windows(8, 4).lengths == ()
    assert sites.lengths == (0,)


def test_features_have_to_match_the_sites() -> None:
    with pytest.raises(ValueError, match="2 feature rows for 3 sites"):
        SparseTensor(Sites(torch.zeros(3, 4, dtype=torch.int32)), torch.zeros(2, 5))
