"""What was kept is found again, to the bit; what was not wholly written is not there."""

from __future__ import annotations

import json

import numpy as np
import pytest

from exporter.fitting.state_store import StateStore

L, D = 2, 3


def batch(*counts, seed=0):
    """Sequences by key with so many pools each, their states and agreement."""
    draw = np.random.default_rng(seed)
    pools = {f"{seed}-{place}": count for place, count in enumerate(counts)}
    total = sum(counts)
    return (
        pools,
        draw.normal(size=(total, L, D)).astype(np.float32),
        draw.integers(-1, 2, total).astype(np.int8),
    )


def assert_holds(store, pools, states, agrees):
    start = 0
    for key, count in pools.items():
        assert key in store
        np.testing.assert_array_equal(store[key].states, states[start : start + count])
        np.testing.assert_array_equal(store[key].agrees, agrees[start : start + count])
        start += count


def test_kept_states_are_found_again_by_any_later_store(tmp_path):
    first, second = batch(2, 1, 3), batch(1, 4, seed=1)
    store = StateStore(tmp_path / "deep" / "states")
    store.add(*first)
    assert_holds(store, *first)
    StateStore(store.folder).add(*second)
    again = StateStore(store.folder)
    assert_holds(again, *first)
    assert_holds(again, *second)
    assert "0-9" not in again
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "000000.json",
        "000000.npy",
        "000001.json",
        "000001.npy",
    ]


def test_states_are_float32_whatever_they_came_as(tmp_path):
    pools, states, agrees = batch(2, 2)
    store = StateStore(tmp_path)
    store.add(pools, np.asfortranarray(states.astype(np.float64)), agrees.astype(np.int64))
    assert store["0-0"].states.dtype == np.float32
    assert store["0-0"].agrees.dtype == np.int8
    assert_holds(StateStore(tmp_path), pools, states, agrees)


def test_the_last_one_kept_under_a_key_counts(tmp_path):
    store = StateStore(tmp_path)
    pools, states, agrees = batch(2)
    store.add(pools, states, agrees)
    store.add(pools, states + 1, agrees)
    assert_holds(StateStore(tmp_path), pools, states + 1, agrees)


@pytest.mark.parametrize(
    "fault",
    ["no states", "short states", "no json", "cut json", "too few", "few agreements", "too many pools"],
)
def test_a_batch_that_is_not_whole_is_not_there_and_spoils_no_other(fault, tmp_path):
    whole, broken = batch(2, 2), batch(3, 1, seed=1)
    store = StateStore(tmp_path)
    store.add(*broken)
    store.add(*whole)
    states, told = tmp_path / "000000.npy", tmp_path / "000000.json"
    if fault == "no states":
        states.unlink()
    elif fault == "short states":
        states.write_bytes(states.read_bytes()[:-4])
    elif fault == "no json":
        told.rename(tmp_path / "000000.part")
    elif fault == "cut json":
        told.write_bytes(told.read_bytes()[:-3])
    elif fault == "too few":
        np.save(states, broken[1][:-1])
    elif fault == "few agreements":
        told.write_text(json.dumps({"pools": broken[0], "agrees": [1] * 3}))
    else:
        told.write_text(json.dumps({"pools": {"1-0": 3, "1-1": 2}, "agrees": [1] * 4}))
    again = StateStore(tmp_path)
    assert "1-0" not in again
    assert "1-1" not in again
    assert_holds(again, *whole)
    again.add(*broken)
    both = StateStore(tmp_path)
    assert_holds(both, *broken)
    assert_holds(both, *whole)
