from __future__ import annotations

import pytest
import torch

from deployments.layers.modulated_block import Entered, ModulatedBlock


@pytest.fixture
def block() -> ModulatedBlock:
    torch.manual_seed(0)
    block = ModulatedBlock(32, 24, heads=4)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return block.requires_grad_(False)


def test_packed_sequences_give_what_dense_ones_give(block: ModulatedBlock) -> None:
    x, time, context = torch.randn(2, 10, 32), torch.randn(2, 32), torch.randn(2, 5, 24)
    modulation, keys = block.modulation(time), block.context_keys(context)
    dense = block(x, modulation, keys)
    packed = block(torch.cat([x[0], x[1, :6]]), modulation, keys, [10, 6])
    torch.testing.assert_close(packed[:10], dense[0])
    alone = block(x[1:, :6], modulation[1:], keys[1:])
    torch.testing.assert_close(packed[10:], alone[0])


def test_one_row_of_modulation_serves_all_items(block: ModulatedBlock) -> None:
    x, time, context = torch.randn(2, 10, 32), torch.randn(1, 32), torch.randn(2, 5, 24)
    keys = block.context_keys(context)
    shared = block(x, block.modulation(time), keys)
    repeated = block(x, block.modulation(time).expand(2, -1), keys)
    torch.testing.assert_close(shared, repeated)


def test_every_part_has_an_effect(block: ModulatedBlock) -> None:
    x, time, context = torch.randn(1, 10, 32), torch.randn(1, 32), torch.randn(1, 5, 24)
    out = block(x, block.modulation(time), block.context_keys(context))
    later = block(x, block.modulation(time + 1), block.context_keys(context))
    elsewhere = block(x, block.modulation(time), block.context_keys(context + 1))
    assert not torch.allclose(out, later)
    assert not torch.allclose(out, elsewhere)


def test_what_is_kept_for_inference_changes_nothing(block: ModulatedBlock) -> None:
    x, time, context = torch.randn(2, 10, 32), torch.randn(1, 32), torch.randn(1, 5, 24)
    modulation, keys = block.modulation(time), block.context_keys(context)
    expected, state = block(x, modulation, keys), dict(block.state_dict())
    block.fuse()
    torch.testing.assert_close(block(x, modulation, keys), expected)
    assert list(block.state_dict()) == list(state)
    for name, tensor in block.state_dict().items():
        torch.testing.assert_close(tensor, state[name])


def test_items_without_an_entry_have_a_condition_of_zeros(block: ModulatedBlock) -> None:
    x, time, context = torch.randn(2, 10, 32), torch.randn(1, 32), torch.randn(1, 5, 24)
    modulation = block.modulation(time)
    both = block.context_keys(torch.cat([torch.zeros_like(context), context]))
    expected = block(x, modulation, both)
    torch.testing.assert_close(block(x, modulation, block.context_keys(context)), expected)


@pytest.mark.parametrize("lengths", [None, [10, 6]], ids=["dense", "packed"])
def test_a_block_may_begin_the_one_behind_it(
    block: ModulatedBlock, lengths: list[int] | None
) -> None:
    x, context = torch.randn(2, 10, 32), torch.randn(2, 5, 24)
    if lengths is not None:
        x = torch.cat([x[0], x[1, :6]])
    first, second = (block.modulation(torch.randn(2, 32)) for _ in range(2))
    keys = block.context_keys(context)
    expected = block(block(x, first, keys, lengths), second, keys, lengths)
    entered = block(x, first, keys, lengths, following=second)
    assert isinstance(entered, Entered)
    torch.testing.assert_close(block(entered, second, keys, lengths), expected)
