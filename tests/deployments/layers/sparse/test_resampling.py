from __future__ import annotations

import torch

from deployments.layers.sparse.normalization import SparseGroupNorm
from deployments.layers.sparse.resampling import downsample, subdivide, upsample
from deployments.layers.sparse.sites import Sites
from deployments.layers.sparse.tensor import SparseTensor


def two_blocks() -> SparseTensor:
    coords = torch.tensor(
        [[0, 3, 1, 1], [0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 1, 1], [1, 0, 0, 0]], dtype=torch.int32
    )
    return SparseTensor(Sites(coords), torch.tensor([[2.0], [3.0], [4.0], [8.0], [6.0]]))


def test_pooling_divides_by_one_more_than_the_children() -> None:
    pooled = downsample(two_blocks())
    assert pooled.coords.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
    assert pooled.feats[:, 0].tolist() == [15 / 4, 2 / 2, 6 / 2]


def test_upsampling_returns_to_the_original_sites_in_their_order() -> None:
    x = two_blocks()
    back = upsample(downsample(x), like=x)
    assert back.sites is x.sites
    assert back.feats[:, 0].tolist() == [1.0, 3.75, 3.75, 3.75, 3.0]


def test_subdividing_copies_the_row_to_eight_children() -> None:
    x = two_blocks()
    children = subdivide(x)
    assert children.sites.lengths == (32, 8)
    assert torch.equal(children.feats.view(5, 8, 1), x.feats[:, None].expand(5, 8, 1))


def test_group_norm_normalises_every_batch_item_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    x = two_blocks()
    feats = torch.randn(5, 8, generator=generator) * 3 + 1
    norm = SparseGroupNorm(4, 8)
    norm.weight.data = torch.randn(8, generator=generator)
    norm.bias.data = torch.randn(8, generator=generator)
    items = [
        torch.nn.functional.group_norm(item.T[None], 4, norm.weight, norm.bias, 1e-5)[0].T
        for item in feats.split(x.sites.lengths)
    ]
    torch.testing.assert_close(norm(feats, x.sites), torch.cat(items), atol=1e-5, rtol=1e-5)


def test_group_norm_of_half_precision_is_computed_in_float32() -> None:
    sites = Sites(torch.tensor([[0, x, 0, 0] for x in range(4096)], dtype=torch.int32))
    feats = (100 + torch.randn(4096, 8, generator=torch.Generator().manual_seed(0))).half()
    out = SparseGroupNorm(2, 8)(feats, sites)
    assert out.dtype is torch.float16
    expected = SparseGroupNorm(2, 8)(feats.double().float(), sites)
    torch.testing.assert_close(out.float(), expected, atol=2e-3, rtol=2e-3)
