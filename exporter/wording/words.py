"""Comparison of generated and expected text: whole words, ignoring case."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache

from exporter.wording.folding import SOFT, fold

_SPACE = re.compile(r"\s+")
_ENDING = " \t\n.!?,;:"
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u201c": '"', "\u201d": '"'})
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Scripts written without spaces (Thai, Lao, Burmese, Khmer, Japanese, Chinese), where words have no visible edges."""


def normalise(text: str) -> str:
    """One space between words, none at either end; case and punctuation are kept."""
    return _SPACE.sub(" ", text).strip()


def contains_words(text: str, wanted: str) -> bool:
    """Whether ``wanted`` stands in ``text`` as whole words.

    Case, the width of spaces, the shape of quotes, the composition of accents, and stops at the ends of ``wanted`` do not
    matter. ``"paris"`` is in ``"Paris."`` and not in ``"comparison"``; ``"5"`` is not in ``"5.3"``, ``"2,5"`` or ``"-5"``.
    A ``wanted`` without any character is in no text.
    """
    return _stands_in(_comparable(text), wanted)


def contains_any(text: str, wanted: Iterable[str]) -> bool:
    """Whether one of ``wanted`` stands in ``text`` as whole words."""
    said = _comparable(text)
    return any(_stands_in(said, words) for words in wanted)


def found_in(text: str, wanted: str) -> tuple[int, int] | None:
    """First occurrence of ``wanted`` in ``text``: half-open range of characters; None if there is none.

    As :func:`contains_words`, but quotes and composed characters are looked for as ``wanted`` has them.
    """
    pattern = _pattern(wanted)
    if pattern is None:
        return None
    found = re.search(pattern.pattern.replace(r"\ ", r"\s+"), text, pattern.flags)
    return None if found is None else found.span()


def _stands_in(said: str, wanted: str) -> bool:
    pattern = _pattern(wanted)
    return pattern is not None and pattern.search(said) is not None


@lru_cache(maxsize=1 << 14)
def _pattern(wanted: str) -> re.Pattern[str] | None:
    """What finds ``wanted`` as whole words in a comparable text; None where it has no character."""
    words = _comparable(wanted).strip(_ENDING)
    if not words:
        return None
    return re.compile(_edge_before(words[0]) + re.escape(words) + _edge_after(words[-1]), re.IGNORECASE)


def words(text: str) -> Iterator[str]:
    """The words of a text as they are read; where a script has no edges between them, every two characters side by side."""
    yield from words_of(fold(text).replace(SOFT, ""))


def words_of(folded: str) -> Iterator[str]:
    """The same of a folded text."""
    for run in re.findall(r"[^\W_]+", folded):
        if len(run) > 1 and _UNSPACED.search(run):
            yield from (run[place : place + 2] for place in range(len(run) - 1))
        else:
            yield run


def _comparable(text: str) -> str:
    return normalise(unicodedata.normalize("NFKC", text).translate(_QUOTES))


def _edge_before(first: str) -> str:
    """A pattern for where a word that begins with ``first`` may begin; a number is not the end of a longer one."""
    if _UNSPACED.match(first):
        return ""
    return r"(?<!\w)(?<!\d[.,])(?<!(?<!\w)-)" if first.isdigit() else r"(?<!\w)"


def _edge_after(last: str) -> str:
    if _UNSPACED.match(last):
        return ""
    return r"(?!\w)(?![.,]\d)" if last.isdigit() else r"(?!\w)"
