import pytest
import torch

from deployments.errors import GenerationError
from deployments.stage2.mesh.corners import average_corners, means_by_sorting, pack, unpack


def test_packed_keys_order_like_the_coordinates() -> None:
    coords = torch.randint(0, 17, (200, 3), generator=torch.Generator().manual_seed(0))
    keys = pack(coords, 16)
    assert torch.equal(unpack(keys, 16), coords)
    by_key = coords[keys.argsort(stable=True)].tolist()
    assert by_key == sorted(coords.tolist())


def test_shared_corners_hold_the_mean_of_their_voxels() -> None:
    coords = torch.tensor([[0, 0, 0], [1, 0, 0]])
    features = torch.zeros(2, 101)
    features[0, 0:8] = 1.0
    features[1, 0:8] = 3.0
    field = average_corners(coords, features, 4)
    x = field.coords()[:, 0]
    assert torch.equal(field.sdf, torch.tensor([1.0, 2.0, 3.0])[x] - 0.25)
    assert len(field.keys) == 12


def test_every_row_follows_its_own_corner() -> None:
    """A value written for one corner of one voxel arrives at that place only."""
    features = torch.zeros(1, 101)
    features[0, 8 + 3 * 6 + 1] = 5.0  # deform, corner 6 = (0, 1, 1), y
    features[0, 53 + 6 * 6 + 2] = 7.0  # colour channel 2 of the same corner
    field = average_corners(torch.tensor([[2, 2, 2]]), features, 4)
    row = field.coords().tolist().index([2, 3, 3])
    assert field.deform.nonzero().tolist() == [[row, 1]]
    assert field.colour is not None
    assert field.colour.nonzero().tolist() == [[row, 2]]


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(GenerationError, match=r"\(1, 53\).*101") as caught:
        average_corners(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 53), 4)
    assert caught.value.code == "mesh_features_shape"


@pytest.mark.parametrize("colours", [False, True])
def test_counting_and_sorting_add_up_the_same(colours: bool) -> None:
    """A CPU counts through the box, a GPU sorts; sums run in the order of the voxels in both."""
    generator = torch.Generator().manual_seed(0)
    coords = torch.randint(3, 12, (300, 3), generator=generator).unique(dim=0)
    coords = coords[torch.randperm(len(coords), generator=generator)]
    features = torch.randn(len(coords), 101, generator=generator)
    field = average_corners(coords, features, 16, colours=colours)
    values = [features[:, 0:8, None] - 1 / 16, features[:, 8:32].reshape(-1, 8, 3)]
    if colours:
        values.append(features[:, 53:101].reshape(-1, 8, 6))
    keys, mean = means_by_sorting(coords, torch.cat(values, dim=2), 16)
    found = [field.sdf[:, None], field.deform]
    if field.colour is not None:
        found.append(field.colour)
    assert torch.equal(field.keys, keys)
    assert torch.equal(torch.cat(found, dim=1), mean)


def test_no_voxels_have_no_corners() -> None:
    field = average_corners(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 101), 4)
    assert len(field.keys) == len(field.sdf) == len(field.deform) == 0
