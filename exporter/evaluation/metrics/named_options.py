"""The options that a reply names as its answer: what it denies is left out, and what it says the answer is goes first."""

from __future__ import annotations

import re
from functools import lru_cache
from string import ascii_uppercase

from exporter.types import Row
from exporter.wording.words import contains_words

_SIGN = r"\s*(?:[).:,;\]*\"'!?]|$)"
_LETTER = re.compile(r"(?<![^\W_])([A-Z])(?![^\W_])(?!['’])")
_SMALL = re.compile(
    rf"^\W*([a-z]){_SIGN}|\b(?:answer|option|choice)(?:\s+is)?\W{{1,3}}([b-hj-z](?![^\W_])|[ai](?={_SIGN}))"
)
_ANSWER = re.compile(
    r"(?<!wrong )(?<!incorrect )\b(?:(?:answer|choice)|(?:correct|right|best|final)(?:\s+(?:answer|choice|option|one|letter))?)"
    r"(?:\s+(?:to|for)\b[^.!?\n]{0,80}?)?\s*(?:\b(?:is|would\s+be|must\s+be)\b|:)"
    r"(?P<clause>.*?)(?=[.!?;](?:\s|$)|\n|$|\b(?:because|since|as|while|whereas|but|unlike)\b)",
    re.IGNORECASE,
)
"""What follows upon "the answer is"."""


def named_options(text: str, row: Row) -> set[str]:
    """The letters of the options that a text names as the answer: none of a refusal, several where it leaves open which it means.

    A letter that stands alone counts (``B``, ``(B)``, ``B: Lima``, ``the answer is B.``); ``A`` and ``I`` only at the beginning or before a
    sign, as they are words too, and a small letter only at the beginning before a sign or behind the word answer, option or choice. Without a
    letter, the options whose words are in the text.
    """
    claimed = _denied(row.options).sub(" ", text)
    concluded = [_mentioned(found["clause"].strip(), row) for found in _ANSWER.finditer(claimed)]
    return set[str]().union(*concluded) or _mentioned(claimed, row)


def _mentioned(text: str, row: Row) -> set[str]:
    letters = ascii_uppercase[: len(row.options)]
    named = {
        found[1]
        for found in _LETTER.finditer(text)
        if found[1] in letters and (found[1] not in "AI" or _stands_alone(text, found))
    }
    small = {(one[1] or one[2]).upper() for one in _SMALL.finditer(text)}
    named |= {letter for letter in small if letter in letters}
    return named or {
        letter for letter, option in zip(letters, row.options, strict=False) if contains_words(text, option)
    }


def _stands_alone(text: str, found: re.Match[str]) -> bool:
    before, after = text[: found.start()].strip(" \n\"'(*[:"), text[found.end() :]
    return not before or re.match(_SIGN, after) is not None


@lru_cache(maxsize=1 << 10)
def _denied(options: tuple[str, ...]) -> re.Pattern[str]:
    """What says of options that they are not the answer: ``not Lyon``, ``neither A nor B``, ``A and C are wrong``.

    Every repetition has an end, since a model that was fitted badly repeats a word until it is stopped.
    """
    words = "|".join(re.escape(option) for option in sorted(filter(None, options), key=len, reverse=True))
    letter = f"(?-i:[{ascii_uppercase[: max(len(options), 1)]}])"
    lettered = rf"{letter}(?![^\W_])(?:[)\]:*]{{0,4}}\s{{0,4}}(?:{words})(?![^\W_]))?"
    named = rf"(?<![^\W_])(?:{lettered}|(?:{words})(?![^\W_]))"
    one = rf"(?:(?:the|options?|answer)\s{{1,4}}){{0,2}}[\"'(*\[]{{0,4}}{named}[\"')*\]]{{0,4}}"
    more = rf"(?:\s{{0,4}}(?:,|\bor\b|\bnor\b|\band\b)\s{{0,4}}{one})"
    wrong = r"(?:wrong|incorrect|false)\b|(?:not|n['’]t)\s+(?:(?:the|a)\s+)?(?:correct|right|true|answer)\b"
    return re.compile(
        rf"\b(?:not|neither|nor|rather\s+than|instead\s+of)\s+{one}(?:\s{{1,4}}(?:or|nor)\s{{1,4}}{one}){{0,8}}"
        rf"|{one}{more}{{0,8}}\s{{1,4}}(?:is|are|was|were)(?:\s{{1,4}}|(?=n['’]t))(?:{wrong})[^.!?;,\n]*",
        re.IGNORECASE,
    )
