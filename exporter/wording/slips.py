"""Slips of the pen, as hasty people make them."""

from __future__ import annotations

import random


def with_letters_exchanged(text: str, draw: random.Random) -> str | None:
    """The text with two letters within one of its longer words exchanged; None where all words are short."""
    words = text.split()
    long = [place for place, word in enumerate(words) if len(word) > 4]
    if not long:
        return None
    place = draw.choice(long)
    word, letter = words[place], draw.randrange(1, len(words[place]) - 2)
    words[place] = word[:letter] + word[letter + 1] + word[letter] + word[letter + 2 :]
    return " ".join(words)
