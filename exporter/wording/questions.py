"""Questions compared: what is asked twice, typed otherwise, is one question."""

from __future__ import annotations

import re
import unicodedata

from exporter.wording.words import normalise

_UNSEEN = re.compile("[\u00ad\u200b\u2060\ufeff]")
_COMPOSED = re.compile(r"[^\u2070-\u209f\u00b2\u00b3\u00b9]+")
"""All but raised and lowered digits, which composition makes digits of the number before them."""
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u201c": '"', "\u201d": '"'})
_STOPS = r"[\s.?,;:\u2026\u3002\u0964\u061f]"
_END = re.compile(rf"(?:{_STOPS}|(?<![\d\s!)])(?<!\b\w)\s*!+)+$")
"""Final punctuation; a factorial (5!, n!) is none."""


def question_as_asked(text: str) -> str:
    """The text as questions are compared: case, spaces, width, the shape of quotes and final punctuation do not matter.

    Everything else does: digits, accents, operators, signs behind a name (``C`` and ``C++``).
    """
    plain = _COMPOSED.sub(lambda found: unicodedata.normalize("NFKC", found[0]), _UNSEEN.sub("", text))
    plain = normalise(plain.translate(_QUOTES)).casefold()
    return _END.sub("", plain) or plain
