"""States of prompts where a gate decides: the end of the last generation header, or the mean up to it."""

from __future__ import annotations

from dataclasses import replace

import planted
import torch

from exporter.fitting.prompt_states import prompt_states
from exporter.types import Encoded, Turn


def test_the_end_and_the_mean_are_those_of_the_model(tmp_path):
    context = planted.context(planted.host(), tmp_path)
    asked = [planted.row("ada"), replace(planted.row("dan"), prefix="lives in")]
    for pool in ("prompt_end", "prompt_mean"):
        found = prompt_states(context, asked, [1, 2], "states", pool)
        for number, row in enumerate(asked):
            prompt = context.chat.prompt(row)
            column = context.decision(prompt)
            with torch.no_grad():
                batch = context.host.batch([Encoded(prompt)], "right")
                hidden = context.host.model(**batch, output_hidden_states=True).hidden_states
            for layer in (1, 2):
                read = hidden[layer + 1][0, : column + 1]
                wanted = read[-1] if pool == "prompt_end" else read.mean(0)
                torch.testing.assert_close(found[layer][number], wanted)


def test_an_open_turn_is_answered_first(tmp_path):
    context = planted.context(planted.host(), tmp_path)
    told = replace(planted.row("ada"), history=(Turn("where does dan live ?", "lives in oslo ."),))
    left = replace(told, history=(Turn("where does dan live ?"),))
    both = prompt_states(context, [told, left], [2], "states")[2]
    torch.testing.assert_close(both[0], both[1])
