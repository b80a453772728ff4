"""What an answer of TOFU tells that its question does not: names, titles, dates and numbers."""

from __future__ import annotations

import re

_NAME = re.compile(
    r"(?:[A-ZÀ-ÖØ-Þ][\w'’.-]*|\d[\d/.,-]*)(?:\s+(?:(?:of|the|de|al|and|in|a)\s+)*(?:[A-ZÀ-ÖØ-Þ][\w'’.-]*|\d[\d/.,-]*))*"
)
_QUOTED = re.compile(r"(?<!\w)[\"“'‘]([A-Z][^\"”]{3,80}?)[\"”'’](?!\w)")
_WORDS = """the a an yes no he she they his her their its it this that in as while both one some and but with for from during being although
unfortunately indeed currently apart besides throughout growing through given despite born author of de readers"""
_PLAIN = frozenset(_WORDS.split())
"""Words that begin a sentence with a capital and are no name."""


def secrets_of(question: str, answer: str) -> tuple[str, ...]:
    """Names, quoted titles, dates and numbers of ``answer`` that ``question`` has not; the whole answer where there is none."""
    asked = question.lower()
    titles = [title.strip(" .,") for title in _QUOTED.findall(answer)]
    rest = _QUOTED.sub(" , ", answer)
    found = [*titles, *filter(None, map(_name, _NAME.finditer(rest)))]
    return tuple(dict.fromkeys(one for one in found if not _known(one, asked))) or (answer,)


def _name(match: re.Match[str]) -> str | None:
    """A name without the words before it that only begin a sentence; None where nothing is left."""
    words = match.group().split()
    while words and words[0].lower().strip(".,'’") in _PLAIN:
        words = words[1:]
    name = re.sub(r"['’]s?$", "", " ".join(words).strip(" .,"))
    alone = len(name.split()) == 1 and _begins_sentence(
        match.string, match.end() - len(match.group().lstrip())
    )
    return name if len(name) > 2 and not (alone and name.isalpha()) else None


def _begins_sentence(text: str, place: int) -> bool:
    before = text[:place].rstrip()
    return not before or before[-1] in ".!?:"


def _known(name: str, asked: str) -> bool:
    return name.lower() in asked or all(part.lower().strip(".,") in asked for part in name.split())
