"""Of several programs the one whose trial costs least, and no trial more than is needed."""

from __future__ import annotations

import planted
import pytest

from exporter.errors import FitError
from exporter.fitting.refusals import wordings
from exporter.fitting.search import cheapest
from exporter.fitting.trials import Bench


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return planted.context(planted.host(), tmp_path_factory.mktemp("search"))


def test_the_first_that_costs_nothing_ends_the_search(context):
    bench = Bench(context, wordings(context))
    everyone, right = (planted.refusing(context, names) for names in (None, planted.FORGET))
    context.records.clear()
    attempts = [(everyone, {"number": 1}), (right, {"number": 2}), (right, {"number": 3})]
    assert cheapest(bench, attempts) is right
    tried = context.records["trials"]
    assert [line["number"] for line in tried] == [1, 2]
    assert tried[0]["cost"] > tried[1]["cost"] == 0.0
    assert (tried[0]["layers"], tried[0]["gate_layers"]) == ([planted.LAYERS - 1], [1])


def test_of_equals_the_first(context):
    bench = Bench(context, wordings(context))
    everyone = [planted.refusing(context, None) for _ in range(2)]
    assert cheapest(bench, [(one, {}) for one in everyone]) is everyone[0]


def test_nothing_to_try_is_an_error(context):
    with pytest.raises(FitError, match="strength"):
        cheapest(Bench(context, wordings(context)), [])
