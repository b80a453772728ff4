"""Delimiters of the reasoning as token sequences, found in generated ids without decoding them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from exporter.types import Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LEFT = ("", " ", "\n", "\n\n", "a", "a ", ".", ". ", ".\n", "!", "?", ")", '"', "*", "。", "1")
_RIGHT = ("", " ", "\n", "\n\n", " a", "a", ".", '"', "*", "1")
"""What may stand beside a delimiter: tokenizers merge across words, so its outer tokens depend on it."""


class Delimiter:
    """One literal part of the reasoning template, in every form its tokens take between usual neighbours.

    Args:
        literal: the template's text; white space around it does not count.
        tokenizer: a fast tokenizer.
    """

    def __init__(self, literal: str, tokenizer: PreTrainedTokenizerBase) -> None:
        core = literal.strip()
        lead, trail = literal[: literal.find(core)], literal[literal.find(core) + len(core) :]
        lefts, rights = sorted({*_LEFT, lead, f"a{lead}"}), sorted({*_RIGHT, trail, f"{trail}a"})
        places = [(left, right) for left in lefts for right in rights] if core else []
        forms = set(_ids_between(tokenizer, core, places))
        self.forms = sorted((form for form in forms if form), key=lambda form: (-len(form), form))

    def find(self, ids: Sequence[int], start: int = 0) -> Span | None:
        """Where the delimiter first stands in ``ids`` from column ``start`` on, in its longest form there."""
        firsts = {form[0] for form in self.forms}
        for column in range(start, len(ids)):
            if ids[column] in firsts:
                for form in self.forms:
                    if tuple(ids[column : column + len(form)]) == form:
                        return Span(column, column + len(form))
        return None


def _ids_between(
    tokenizer: PreTrainedTokenizerBase, core: str, places: Sequence[tuple[str, str]]
) -> Iterator[tuple[int, ...]]:
    """For every (left, right): ids of the tokens that hold a part of ``core`` when it stands between the two."""
    if not places:
        return
    texts = [left + core + right for left, right in places]
    out = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    for (left, _), ids, offsets in zip(places, out["input_ids"], out["offset_mapping"], strict=True):
        start, stop = len(left), len(left) + len(core)
        yield tuple(
            token
            for token, (first, last) in zip(ids, offsets, strict=True)
            if first < stop and last > start and first < last
        )
