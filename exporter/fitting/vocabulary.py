"""Words that a model has tokens of its own for: filler in which no list of ours can be recognised."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST = 4000


def spoken_words(tokenizer: PreTrainedTokenizerBase, split: str) -> tuple[str, ...]:
    """Words of letters that are one token each, half of them for either split; none where a tokenizer names no vocabulary."""
    if not hasattr(tokenizer, "get_vocab"):
        return ()
    ids = sorted(tokenizer.get_vocab().values())
    random.Random(0).shuffle(ids)
    special = set(getattr(tokenizer, "all_special_ids", ()))
    found: list[str] = []
    for token in ids:
        word = str(tokenizer.decode([token])).strip() if token not in special else ""
        if len(word) > 1 and word.isalpha() and word.isascii():
            found.append(word)
        if len(found) >= 2 * _MOST:
            break
    words = tuple(dict.fromkeys(found))
    return words[0::2] if split == "fit" else words[1::2]
