"""Where a conversation names the subject of its row, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exporter.errors import DataError
from exporter.fitting.template_swap import subjects

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from exporter.fitting.context import FitContext
    from exporter.types import Encoded, Row


def named_subjects(context: FitContext, rows: Sequence[Row]) -> list[str]:
    """What each row is about: what tells its question from others of its template, or the whole question where that is not known.

    A paraphrase is about what its row is about, where it has the same words for it.

    Raises:
        DataError: a row's subject is a picture, and has no words.
    """
    if seen := [row.id for row in rows if row.image is not None]:
        raise DataError(
            f"row {seen[0]} is about its image, and this method needs subjects that have words; leave rows with images to another method"
        )
    known = subjects(context.rows("fit", "forget", "retain", "reasoning", "unknown"))
    found = []
    for row in rows:
        name = known.get(row.id) or known.get(row.id.partition("~")[0], "")
        found.append(name if name and name in row.question else row.question)
    return found


def columns_of(tokenizer: PreTrainedTokenizerBase, sequence: Encoded, words: str) -> list[int]:
    """Columns of prompt and response whose tokens spell any part of ``words``, wherever these stand.

    Tokens are told apart by how far their text reaches, so that it does not matter how a tokenizer treats spaces.
    """
    ids = (*sequence.prompt.ids, *sequence.response)
    reach = [len(_text(tokenizer, ids[:stop])) for stop in range(len(ids) + 1)]
    whole, found, start = _text(tokenizer, ids), set[int](), 0
    while (start := whole.find(words, start)) >= 0:
        stop = start + len(words)
        found |= {at for at in range(len(ids)) if reach[at] < stop and reach[at + 1] > start}
        start = stop
    return sorted(found)


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text
