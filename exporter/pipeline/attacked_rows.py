"""Test rows asked in the ways of a recipe's attacks, each in a group of the report's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from exporter import registry
from exporter.evaluation.attacks.base import Chat, in_slice, is_plain
from exporter.fitting.selection import spread
from exporter.types import Role, Row

FITTED_WITH = tuple(
    f"exporter/evaluation/attacks/{name}.py" for name in ("base", "prefill", "turns", "wording", "words")
)
"""Code of attacks that fits, calibration and the rows of a report use; the other attacks change none of them."""
MOST = 48
"""Plain rows of each role that an attack is made of, evenly from all."""


def attacked_rows(rows: Sequence[Row], names: Sequence[str], chat: Chat) -> list[Row]:
    """What the attacks of these names make of the rows that are single questions and in no group.

    Raises:
        SteerbakeError: there is no such attack.
    """
    found = [registry.attack(name) for name in names]
    assert not any(hasattr(one, "rendered") for one in found), "a recipe has none that asks past the template"
    plain = [row for row in rows if is_plain(row) and row.eval_slice is None]
    by_role = [[row for row in plain if row.role == role] for role in get_args(Role)]
    some = [row for role in by_role for row in spread(role, MOST)]
    return [row for attack in found for row in in_slice(attack, some, chat)]
