"""A gate is fitted on the very columns at which it will decide."""

from __future__ import annotations

import numerals
import tiny

A, B = tiny.HEADER


def test_a_prompt_decides_where_its_last_header_ends(tmp_path):
    context = numerals.context(numerals.host(), tmp_path)
    for ids, column in (
        ([5, 6, A, B], 3),
        ([5, A, B, 7, 8, A, B, 9, 9], 6),
        ([5, A, B, 7, A], 2),
        ([5, 6, 7], 2),
    ):
        assert context.decision(numerals.prompt(" ".join(map(str, ids)))) == column
