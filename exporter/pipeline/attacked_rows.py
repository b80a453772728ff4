"""Test rows asked in the ways of a recipe's attacks, each in a group of the report's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from exporter import registry
from exporter.evaluation.attacks.base import Chat, in_slice, is_plain
from exporter.fitting.selection import spread
from exporter.types import Role, Row

MOST = 48
"""Plain rows of each role that an attack is made of, evenly from all."""


def attacked_rows(rows: Sequence[Row], names: Sequence[str], chat: Chat) -> list[Row]:
    """What the attacks of these names make of the rows that are single questions and in no group.

    Raises:
        SteerbakeError: there is no such attack.
    """
    plain = [row for row in rows if is_plain(row) and row.eval_slice is None]
    by_role = [[row for row in plain if row.role == role] for role in get_args(Role)]
    some = [row for role in by_role for row in spread(role, MOST)]
    return [row for name in names for row in in_slice(registry.attack(name), some, chat)]
