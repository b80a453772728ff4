"""Mean differences that lead away from the forget set, on planted states."""

from __future__ import annotations

from dataclasses import replace

import planted_steering as steering
import pytest

from exporter.fitting.mean_differences import mean_differences
from exporter.fitting.refusals import wordings


def difference(folder, fit=None, source="replies"):
    given = steering.states_context(folder, None, fit)
    return mean_differences(given, wordings(given), [1], source, rows=100, negatives="rows")[1]


PLANTED = {
    "replies": steering.axis("refuse") - steering.axis("tell"),
    "questions": steering.axis("kept") - steering.axis("topic"),
    "refused": steering.axis("strange") + steering.axis("refuse") - steering.axis("topic"),
}


@pytest.mark.parametrize("source", PLANTED)
def test_the_difference_is_the_planted_one(tmp_path, source):
    found = difference(tmp_path, source=source)
    assert steering.cosine(found, PLANTED[source]) > 0.97
    assert abs(float(found.norm() / PLANTED[source].norm()) - 3.0) < 0.4


def test_questions_under_the_wrong_roles_give_another_direction(tmp_path):
    wrong = steering.with_roles(steering.numeral_rows(), forget="retain", retain="forget")
    assert steering.cosine(difference(tmp_path, wrong, source="questions"), PLANTED["questions"]) < -0.97


def test_refusals_that_are_none_give_no_direction(tmp_path):
    """The control for replies: rows of role unknown that tell like the others."""
    wrong = [replace(row, answer="40 7") if row.role == "unknown" else row for row in steering.numeral_rows()]
    assert abs(steering.cosine(difference(tmp_path, wrong), PLANTED["replies"])) < 0.5
