"""What counts as a fluent refusal in a run: what its rows and its recipe say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from exporter.data.chat import Chat
from exporter.evaluation.refusals import RefusalRule
from exporter.recipe import Refusals
from exporter.types import Row


def refusal_rule(refusals: Refusals, rows: Sequence[Row], chat: Chat) -> RefusalRule:
    """Refusals as the model's own tokenizer spells them: it may drop a space before a tag.

    Args:
        rows: those of the fit.
    """
    unknown = [row for row in rows if row.role == "unknown"] if refusals.from_rows else []
    texts = {(row.reasoning, row.answer): replace(row, history=(), prefix=None) for row in unknown}
    spelled = [(chat.encode(row).response, row.answer) for row in texts.values()]
    pairs = [(chat.tokenizer.decode(ids, skip_special_tokens=True), answer) for ids, answer in spelled]
    return RefusalRule.of(pairs, refusals.accepted, refusals.patterns)
