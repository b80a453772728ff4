"""Pools are means over exactly the columns named, wherever padding has moved them."""

import numerals
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.fitting.pooling import PooledSequence, PoolIndex, block_means
from exporter.types import Encoded


@st.composite
def batches(draw):
    items = []
    for _ in range(draw(st.integers(1, 4))):
        length = draw(st.integers(1, 6))
        one = Encoded(
            numerals.prompt(" ".join(["5"] * length)), tuple(range(10, 10 + draw(st.integers(0, 3))))
        )
        column = st.integers(0, len(one) - 1)
        pool = st.lists(column, min_size=1, max_size=len(one), unique=True).map(tuple)
        items.append(PooledSequence(one, tuple(draw(st.lists(pool, min_size=1, max_size=3)))))
    return items


@settings(deadline=None, max_examples=60)
@given(batches(), st.sampled_from(["left", "right"]), st.integers(0, 3))
def test_a_pool_is_the_mean_over_its_columns(items, side, spare):
    width = max(len(item.sequence) for item in items) + spare
    states = torch.full((len(items), width, 4), torch.nan)
    want, follows = [], []
    for row, item in enumerate(items):
        start = width - len(item.sequence) if side == "left" else 0
        own = torch.randn(len(item.sequence), 4, generator=torch.Generator().manual_seed(row))
        states[row, start : start + len(own)] = own
        want += [own[list(pool)].mean(0) for pool in item.pools]
        ids = (*item.sequence.prompt.ids, *item.sequence.response, -1)
        follows += [ids[pool[0] + 1] if len(pool) == 1 else -1 for pool in item.pools]
    index = PoolIndex.of(items, width, side)
    torch.testing.assert_close(index.means(states), torch.stack(want), rtol=1e-5, atol=1e-6)
    assert index.next_ids.tolist() == follows


def test_means_of_bfloat16_states_are_taken_in_float32():
    one = PooledSequence(Encoded(numerals.prompt("5 6 7")), ((0, 1, 2),))
    states = torch.tensor([[[256.0], [1.0], [1.0]]], dtype=torch.bfloat16)
    assert PoolIndex.of([one], 3, "right").means(states).tolist() == [[86.0]]


@pytest.mark.parametrize("pool", [(), (3,), (-1,), (0, 3)])
def test_pools_outside_their_sequence_are_refused(pool):
    with pytest.raises(ValueError, match="3 columns"):
        PooledSequence(Encoded(numerals.prompt("5 6"), (7,)), (pool,))


def test_a_layer_that_does_not_exist_leaves_no_hook_behind():
    host = numerals.host()
    index = PoolIndex.of([PooledSequence(Encoded(numerals.prompt("5 6")), ((1,),))], 2, "right")
    with pytest.raises(IndexError), block_means(host.blocks, [0, 99], index):
        pass
    assert not any(block._forward_hooks for block in host.blocks)
