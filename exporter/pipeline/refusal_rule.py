"""What counts as a fluent refusal of one model: what its rows of role unknown are answered by, as its tokenizer spells it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from exporter.data.chat import Chat
from exporter.evaluation.refusals import RefusalRule
from exporter.types import Row


def refusal_rule(
    chat: Chat, rows: Sequence[Row], accepted: Sequence[str] = (), patterns: Sequence[str] = ()
) -> RefusalRule:
    """Refusals as the model's own tokenizer spells them: it may drop a space before a tag.

    Args:
        rows: those of role unknown count, whatever else stands among them.
        accepted: further replies that are refusals, word for word.
        patterns: regular expressions for whole replies.
    """
    unknown = [row for row in rows if row.role == "unknown"]
    texts = {(row.reasoning, row.answer): replace(row, history=(), prefix=None) for row in unknown}
    spelled = [(chat.encode(row).response, row.answer) for row in texts.values()]
    pairs = [(chat.tokenizer.decode(ids, skip_special_tokens=True), answer) for ids, answer in spelled]
    return RefusalRule.of(pairs, accepted, patterns)
