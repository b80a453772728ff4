"""Decisions are collected where gates decide, of the kinds and with the labels and weights that the search needs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import planted
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import FitError
from exporter.fitting.decision_points import UNKNOWN_WEIGHT, DecisionPointPlan, class_numbers, gather
from exporter.types import Row, Turn

A, B = 84, 85
POOLS = ("prompt_end", "prompt_mean")


def state(sequence, column, layer):
    """The id of the column, its place and its layer, so that whoever reads a state knows what it is one of."""
    return torch.tensor([sequence.prompt.ids[column], column, layer], dtype=torch.float32)


def row(role, number, **keys):
    return Row(f"{role}{number}", f"{number} {A} {B}", "7", role, **keys)


ROWS = [
    *(row("forget", n) for n in range(100, 106)),
    *(row("retain", n) for n in range(200, 208)),
    *(row("reasoning", n) for n in range(300, 304)),
    *(row("unknown", n) for n in range(400, 404)),
]


def context(folder, fit=ROWS, calibrate=ROWS):
    return planted.states_context(folder, state, fit, calibrate)


def single(probes):
    return [probe for probe in probes if not probe.row.history]


def test_states_are_those_at_the_header_and_their_mean_up_to_it(tmp_path):
    odd = row("forget", 100, history=(Turn("50 84 85", "60"),), prefix="61 62")
    given = context(tmp_path, [odd, *ROWS[1:]])
    decisions, probes = gather(given, "fit", DecisionPointPlan(pairs=3), POOLS, [])
    for number, probe in enumerate(probes):
        ids = probe.sequence.prompt.ids
        assert ids[probe.column - 1 : probe.column + 1] == (A, B)
        assert B not in ids[probe.column + 1 :]
        end, mean = (decisions.states[pool][number] for pool in POOLS)
        assert end.tolist() == [[B, probe.column, 0], [B, probe.column, 1]]
        read = ids[: probe.column + 1]
        assert mean[1].tolist() == pytest.approx([sum(read) / len(read), probe.column / 2, 1.0])
    first = next(probe for probe in probes if probe.row.id == "forget100")
    assert first.sequence.prompt.ids[first.column + 1 :] == (61, 62)
    assert first.kind == "later"


def test_labels_and_weights_are_the_rows(tmp_path):
    decisions, probes = gather(context(tmp_path), "calibrate", DecisionPointPlan(pairs=6), POOLS, [])
    for probe, forget, weight in zip(probes, decisions.forget, decisions.weights, strict=True):
        assert bool(forget) == (probe.sequence.prompt.ids[probe.column - 2] in range(100, 106))
        assert float(weight) == (UNKNOWN_WEIGHT if probe.row.role == "unknown" else 1.0)
    assert {probe.row.role for probe in single(probes)} == {"forget", "retain", "reasoning", "unknown"}
    assert len(single(probes)) == len(ROWS)


def test_at_most_so_many_rows_of_a_role(tmp_path):
    _, probes = gather(context(tmp_path), "calibrate", DecisionPointPlan(rows=2, pairs=0), POOLS, [])
    assert Counter(probe.row.role for probe in probes) == {
        "forget": 2,
        "retain": 4,
        "reasoning": 2,
        "unknown": 1,
    }


def test_later_turns_hold_the_subject_in_either_turn_or_in_neither(tmp_path):
    """Only who is asked about now counts, whoever was asked about, answered or refused before."""
    given = context(tmp_path)
    _, probes = gather(given, "calibrate", DecisionPointPlan(pairs=40), POOLS, [(None, "9 9")])
    later = [probe for probe in probes if probe.row.history]
    assert {probe.kind for probe in later} == {"later"}
    assert {probe.kind for probe in single(probes)} == {"prompt"}

    def kind(text):
        return (
            "about" if int(text.split()[0]) < 200 else "unknown" if int(text.split()[0]) >= 400 else "other"
        )

    met = {(kind(one.row.history[0].question), one.row.role) for one in later}
    assert met >= {
        ("about", "retain"),
        ("other", "forget"),
        ("unknown", "forget"),
        ("unknown", "retain"),
        ("other", "retain"),
    }
    answers = {kind(one.row.history[0].question): set() for one in later}
    for one in later:
        answers[kind(one.row.history[0].question)].add(one.row.history[0].answer)
    assert answers["about"] == {"7", "9 9"}  # told, and refused
    _, again = gather(given, "calibrate", DecisionPointPlan(pairs=40), POOLS, [(None, "9 9")])
    assert again == probes


def test_without_unknown_rows_kept_ones_are_refused_before(tmp_path):
    rows = [one for one in ROWS if one.role != "unknown"]
    _, probes = gather(
        context(tmp_path, rows, rows), "calibrate", DecisionPointPlan(pairs=40), POOLS, [(None, "9 9")]
    )
    refused = [one.row for one in probes if one.row.history and one.row.history[0].answer == "9 9"]
    asked = {int(one.history[0].question.split()[0]) >= 200 for one in refused}
    assert asked == {True, False}


def test_other_wordings_of_a_subject_are_asked_in_the_fit_rows_alone(tmp_path):
    def worded(name, words, role):
        return Row(f"{words}-{name}", f"{words} {name} {A} {B}", "7", role, template_id=str(words))

    rows = [
        worded(name, words, "forget" if name < 102 else "retain")
        for words, names in ((50, (100, 101, 200)), (51, (100, 201)))
        for name in names
    ]
    given = context(tmp_path, rows, rows)
    counts = {}
    for split, crossed in (("fit", 0), ("fit", 3), ("calibrate", 3)):
        _, probes = gather(given, split, DecisionPointPlan(pairs=0, crossed=crossed), POOLS, [])
        counts[split, crossed] = Counter(probe.sequence.prompt.ids[:2] for probe in probes)
    assert counts["fit", 0] == counts["calibrate", 3]
    new = counts["fit", 3] - counts["fit", 0]
    assert new == {(51, 101): 1, (51, 200): 1, (50, 201): 1}


def test_one_side_alone_is_refused(tmp_path):
    rows = [one for one in ROWS if one.role == "retain"]
    with pytest.raises(FitError):
        gather(context(tmp_path, rows, rows), "fit", DecisionPointPlan(pairs=0), POOLS, [])


def test_a_class_is_a_subject_seen_in_one_way_at_one_kind_of_decision():
    told = replace(ROWS[0], secrets=("oslo",))
    seen = replace(told, id="seen", image=Path("x.png"))
    asked = [
        (told, "prompt"),
        (replace(told, id="other", question="51"), "prompt"),
        (told, "later"),
        (seen, "prompt"),
        (ROWS[6], "prompt"),
        (ROWS[7], "prompt"),
        (ROWS[8], "prompt"),
    ]
    assert class_numbers(asked, {ROWS[6].id: "dan", ROWS[7].id: "dan"}) == [0, 0, 1, 2, 3, 3, 4]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12))
def test_numbers_count_up_and_tell_what_differs(drawn):
    asked = [(ROWS[place], "later" if late else "prompt") for place, late in drawn]
    numbers = class_numbers(asked, {})
    assert sorted(set(numbers)) == list(range(len(set(drawn))))
    pairs = [(i, j) for i in range(len(drawn)) for j in range(i)]
    assert all((numbers[i] == numbers[j]) == (drawn[i] == drawn[j]) for i, j in pairs)
