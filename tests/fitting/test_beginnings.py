"""What sequences begin with alike is found and run once, and no sequence is lost or changed by it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numerals
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from exporter.fitting.beginnings import FEWEST, LEAST, Beginning, batches, common_beginning
from exporter.fitting.pooling import PooledSequence
from exporter.types import Encoded, Prompt

HEAD = tuple(range(10, 20))
words = st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple)


def item(*ids, images=(), response=()):
    return PooledSequence(Encoded(Prompt("", ids, images), tuple(response)), ((len(ids) - 1,),))


@given(st.lists(words, min_size=1, max_size=6))
def test_the_common_beginning_is_the_longest_that_leaves_everybody_something(sequences):
    found = common_beginning(sequences)
    assert all(one[: len(found)] == found and len(one) > len(found) for one in sequences)
    longer = {one[: len(found) + 1] for one in sequences}
    assert len(longer) > 1 or min(map(len, sequences)) == len(found) + 1


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6), st.booleans()), min_size=1, max_size=30),
    st.integers(1, 7),
    st.booleans(),
)
def test_every_sequence_is_in_one_batch_behind_what_it_begins_with(drawn, size, shared):
    missing = {
        str(place): item(*([start] * LEAST + [50 + place] * length), images=(Path("x.png"),) if seen else ())
        for place, (start, length, seen) in enumerate(drawn)
    }
    found = list(batches(missing, size, shared=shared))
    assert sorted(key for batch in found for key in batch.items) == sorted(missing)
    for batch in found:
        assert 1 <= len(batch.items) <= size
        lengths = [len(one.sequence) for one in batch.items.values()]
        assert lengths == sorted(lengths)
        assert all(missing[key] is one for key, one in batch.items.items())
        if batch.beginning is None:
            continue
        assert shared
        for one in batch.items.values():
            assert one.sequence.prompt.ids[: len(batch.beginning.ids)] == batch.beginning.ids
            assert len(batch.beginning.ids) < len(one.sequence.prompt.ids)
            assert not one.sequence.prompt.images
    for start in range(3):
        own = [str(place) for place, (first, _, seen) in enumerate(drawn) if first == start and not seen]
        behind = {key for batch in found if batch.beginning is not None for key in batch.items}
        assert set(own) <= behind or not set(own) & behind
        assert (set(own) <= behind) == (shared and len(own) >= FEWEST) or not own


def test_a_beginning_must_be_shared_by_some_and_be_of_some_length():
    def heads(count, ids):
        found = batches({str(n): item(*ids, 50 + n) for n in range(count)}, 99, shared=True)
        return [None if one.beginning is None else one.beginning.ids for one in found]

    assert heads(FEWEST, HEAD) == [HEAD]
    assert heads(FEWEST - 1, HEAD) == [None]
    assert heads(FEWEST, HEAD[:LEAST]) == [HEAD[:LEAST]]
    assert heads(FEWEST, HEAD[: LEAST - 1]) == [None]


def test_batches_of_one_beginning_share_it():
    found = list(batches({str(n): item(*HEAD, 50 + n) for n in range(10)}, 4, shared=True))
    assert [len(batch.items) for batch in found] == [4, 4, 2]
    assert len({id(batch.beginning) for batch in found}) == 1


@pytest.fixture(scope="module")
def host():
    return numerals.host()


def test_it_is_run_once_and_stands_for_the_columns_of_the_whole(host):
    runs = []
    handle = host.blocks[0].register_forward_hook(lambda *_: runs.append(1))
    beginning = Beginning(HEAD)
    ran = beginning.run(host, (1, 3))
    assert beginning.run(host, (1, 3)) is ran
    handle.remove()
    assert len(runs) == 1
    whole = host.batch([Encoded(Prompt("", (*HEAD, 30, 31))), Encoded(Prompt("", (*HEAD, 32)))], "right")
    for layer in (1, 3):
        states = tiny.block_states(host.model, whole, layer)
        torch.testing.assert_close(ran.states[layer], states[0, : len(HEAD)], rtol=1e-4, atol=1e-5)
    inputs = ran.shortened(whole)
    assert inputs["input_ids"].tolist() == [[30, 31], [32, tiny.PAD]]
    assert inputs["attention_mask"].shape == (2, len(HEAD) + 2)
    with torch.no_grad():
        plain = host.model.base_model(**whole, use_cache=False).last_hidden_state
        for _ in range(2):  # the cache is as good as new the second time
            last = ran.with_last(host.model.base_model(**ran.shortened(whole)).last_hidden_state)
            torch.testing.assert_close(last[0], plain[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(last[1, :-1], plain[1, :-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cached", [False, True])
def test_a_model_without_such_a_cache_runs_everything_whole(cached, host):
    """Where it makes none, and where it holds other columns than the beginning's."""
    asked = []

    def base_model(input_ids, use_cache):
        asked.append(use_cache)
        ids = torch.cat([input_ids, input_ids[:, :1]], dim=1) if cached else input_ids
        return host.model.base_model(input_ids=ids, use_cache=cached)

    other = SimpleNamespace(
        model=SimpleNamespace(base_model=base_model), blocks=host.blocks, device=host.device
    )
    beginning = Beginning(HEAD)
    assert beginning.run(other, (1,)) is None
    assert beginning.run(other, (1,)) is None
    assert len(asked) == 1
