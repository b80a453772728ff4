"""Single columns of rows with their answers."""

from __future__ import annotations

import planted
import pytest
import torch

from exporter.fitting.column_states import column_states


@pytest.mark.parametrize(("part", "most"), [("whole", 100), ("reply", 100), ("whole", 3)])
def test_columns_are_those_of_the_part_and_no_more_than_asked(tmp_path, part, most):
    context = planted.context(planted.host(), tmp_path)
    row = planted.row("ada")
    sequence = context.chat.encode(row)
    with torch.no_grad():
        batch = context.host.batch([sequence], "right")
        hidden = context.host.model(**batch, output_hidden_states=True).hidden_states[3][0]
    found = column_states(context, [row, row], [2], "columns", part=part, most=most)[2]
    read = hidden if part == "whole" else hidden[sequence.prompt_end :]
    if most == 3:
        assert len(found) == 6
        read = read[[0, round((len(read) - 1) / 2), len(read) - 1]]
    torch.testing.assert_close(found, torch.cat([read, read]))
