"""Estimates: a value, the rows behind it and a 95% interval, against figures worked out by hand."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.estimate import Estimate, rows_needed


def test_a_share_of_nothing_says_so() -> None:
    assert Estimate.share([]) == Estimate(0.0, 0, 0.0, 1.0)
    assert Estimate.share([True, False, True, True]) == Estimate.of_share(0.75, 4)
    assert Estimate.of_share(0.75, 4).count == 3


def test_intervals_of_shares() -> None:
    half = Estimate.of_share(0.5, 10)
    assert (half.low, half.high) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert Estimate.of_share(0.0, 50).low == 0.0
    assert Estimate.of_share(0.0, 50).high == pytest.approx(0.0714, abs=1e-4)
    assert Estimate.of_share(1.0, 50).high == 1.0


def test_intervals_of_means() -> None:
    """Of 1, 2 and 3: deviation 1, so 1.96 / sqrt(3) to either side; of one value nothing is known."""
    mean = Estimate.mean([1.0, 2.0, 3.0], (-math.inf, math.inf))
    assert (mean.value, mean.n) == (2.0, 3)
    assert (mean.low, mean.high) == pytest.approx((0.8684, 3.1316), abs=1e-4)
    assert Estimate.mean([1.0, 2.0, 3.0], (1.5, 2.5)) == Estimate(2.0, 3, 1.5, 2.5)
    assert Estimate.mean([-4.0], (-math.inf, 0.0)) == Estimate(-4.0, 1, -math.inf, 0.0)
    assert Estimate.mean([]) == Estimate(0.0, 0, 0.0, 1.0)


@given(st.lists(st.floats(0.0, 1.0), max_size=12))
def test_the_mean_lies_in_its_interval_whatever_the_order(values: list[float]) -> None:
    mean = Estimate.mean(values)
    assert 0.0 <= mean.low <= mean.value + 1e-12 and mean.value - 1e-12 <= mean.high <= 1.0
    assert Estimate.mean(values[::-1]) == mean


def test_files_have_it_under_their_own_keys() -> None:
    one = Estimate.of_share(0.25, 8)
    assert one.as_dict() == {"value": 0.25, "n": 8, "interval": [one.low, one.high]}
    assert Estimate.read(one.as_dict("rows"), "rows") == one
    assert json.dumps(Estimate.mean([-4.0], (-math.inf, 0.0)).as_dict()["interval"]) == "[null, 0.0]"


@pytest.mark.parametrize(
    ("room", "rows"), [(1.0, 1), (0.5, 4), (0.2, 16), (0.1, 35), (0.05, 73), (0.01, 381)]
)
def test_as_many_rows_are_needed_as_the_interval_says(room: float, rows: int) -> None:
    assert rows_needed(room) == rows
    assert Estimate.of_share(0.0, rows).high <= room
    assert 1 - Estimate.of_share(1.0, rows).low <= room + 1e-12
    assert rows == 1 or Estimate.of_share(0.0, rows - 1).high > room


def test_an_interval_that_leaves_half_of_all_possible_tells_nothing() -> None:
    few = [(0.0, 2), (0.0, 3), (1.0, 3), (0.5, 10)]
    enough = [(0.0, 0), (0.0, 4), (1.0, 4), (0.5, 12), (0.0, 20)]
    assert all(Estimate.of_share(*one).few for one in few)
    assert not any(Estimate.of_share(*one).few for one in enough), (
        "nothing counted is another thing than too little"
    )
