"""A text as it may be read: without case, accents, widths, invisible characters and markup, so that spellings of one word meet."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import unquote

SOFT = "\ue000"
"""Stands for what is no part of a word and need not part one: zero-width characters, markup, emoji, a change of case within a word."""

READINGS = ("plain", "umlauts", "look_alikes")
"""Ways to read letters: without accents; umlauts written out; letters of other scripts as the Latin ones that they look like."""

_INDIC = "\u0900-\u0963\u0966-\u0dff"
MARKS = f"{_INDIC}\u0e31-\u0e4e\u0eb1-\u0ece\u102b-\u103e\u17b4-\u17d3\u3099\u309a"
"""Vowel signs that are parts of words, and no letters to a regular expression; for use in a character class."""

_ALPHABETS = {"LATIN", "GREEK", "CYRILLIC", "HEBREW", "ARABIC", "ARMENIAN"}
"""Scripts that are read without their accents and points too."""
_LETTERS = {
    **dict(zip("ıłøđðħŋſ", "iloddhns", strict=True)),
    "æ": "ae",
    "œ": "oe",
    "þ": "th",
    "ى": "ي",
    "ی": "ي",
    "ة": "ه",
    "ک": "ك",
    "ـ": "",
}
"""Letters that are others with a stroke, two letters in one, or forms of one letter; without an elongation."""
_MARKS_OF_PUNCTUATION = {
    **dict.fromkeys("‘’‚‛ʼʻʹ′`´＇", "'"),
    **dict.fromkeys("“”„‟«»″", '"'),
    **dict.fromkeys("−﹣‒⁃", "-"),
    "٫": ".",
    "٬": ",",
    "।": ".",
    "॥": ".",
}
_BEFORE = str.maketrans(
    {
        **dict.fromkeys("™℠©®№", SOFT),
        **{raised: f"^{digit}" for raised, digit in zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True)},
        **{lowered: f"^{digit}" for lowered, digit in zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)},
    }
)
"""Signs that composition would make letters and digits of the word before them."""
_UMLAUTS = str.maketrans(
    {
        "ä": "ae",
        "ö": "oe",
        "ü": "ue",
        "Ä": "Ae",
        "Ö": "Oe",
        "Ü": "Ue",
        "å": "aa",
        "Å": "Aa",
        "ø": "oe",
        "Ø": "Oe",
    }
)
_NAMED = re.compile(
    "(?:LATIN LETTER SMALL CAPITAL|NEGATIVE (?:CIRCLED|SQUARED) LATIN CAPITAL LETTER) ([A-Z]|AE|OE)"
)
_LOOK_ALIKES: dict[int, int | str] = {
    **str.maketrans(
        "АВЕЅІЈКМНОРСТУХҮабвеѕіјкмнорстухԁһԛԝүӏɡΑΒΕΖΗΙΚΜΝΟΡΤΥΧαβεζηικμνοτυχρϲɑɩʋƒᴃᴆᴌʛᵻᴎᴙʁ",
        "ABESIJKMHOPCTYXYabbesijkmhopctyxdhqwylgABEZHIKMNOPTYXabeznikuvotuxpcaivfbdlginrr",
    ),
    **{
        code: found[1].lower()
        for block in ((0x250, 0x2B0), (0x1D00, 0x1D80), (0xA720, 0xA800), (0x1F150, 0x1F18A))
        for code in range(*block)
        if (found := _NAMED.fullmatch(unicodedata.name(chr(code), "")))
    },
}
"""Letters of other scripts, and forms of Latin ones that composition leaves as they are."""
_CAMEL = re.compile("(?<=[a-zß-öø-ÿ])(?=[A-ZÀ-ÖØ-Þ])")
_DATE = re.compile(r"(?<![\d.])(?:\d{1,2}\.\d{1,2}\.\d{4}|\d{4}\.\d{1,2}\.\d{1,2})(?![\d]|\.\d)")
_MARKUP = re.compile(
    r"</?[A-Za-z][^<>]{0,200}>|<!--.{0,200}?-->"  # tags
    r"|&(?:\#\d{1,7}|\#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});"  # entities
    r"|\\u[0-9A-Fa-f]{4}(?:\\u[dD][c-fC-F][0-9A-Fa-f]{2})?|\\x[0-9A-Fa-f]{2}"  # as JSON and programs escape
    r"|\\(?:text|math|emph|boxed|mbox|operatorname|underline|textcolor)[a-z]*\s*\{|\\[\"'^`~=.]\{?|\\[,;! ]"  # LaTeX
    r"|\\[nrtfbv]|(?<!\d)(?:%[0-9A-Fa-f]{2})+",  # line ends as escapes, and addresses
    re.DOTALL,
)
_CLUSTER = re.compile(
    "[\u1100-\u11ff]+|.[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u3099\u309a\uff9e\uff9f]*", re.DOTALL
)


def fold(text: str, reading: str = "plain") -> str:
    """The text as one of ``READINGS``: lower case, decimal digits, plain quotes and hyphens, ``SOFT`` for what is not read."""
    text = _CAMEL.sub(SOFT, text.translate(_BEFORE))
    if reading == "umlauts":
        text = unicodedata.normalize("NFC", text).translate(_UMLAUTS)
    text = unicodedata.normalize("NFKC", text)
    if reading == "look_alikes":
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", text).translate(_LOOK_ALIKES))
    folded = text.translate(_TABLE)
    return _DATE.sub(lambda found: found[0].replace(".", "/"), folded)


def unmarked(text: str) -> str:
    """The text as a program shows it: without tags and commands, with entities and escapes as the characters they stand for."""
    return _MARKUP.sub(lambda found: _shown(found[0]), text)


@lru_cache(maxsize=24)
def readings(text: str, reading: str) -> tuple[str, ...]:
    """The text folded as it stands and, where it has markup, as it is shown; spaces at both ends."""
    shown = unmarked(text)
    return tuple(f" {fold(one, reading)} " for one in dict.fromkeys((text, shown)))


@lru_cache(maxsize=24)
def letters(text: str, reading: str) -> tuple[str, ...]:
    """Letters and digits alone of each of :func:`readings`: what is not in here is not in there."""
    return tuple(bare(one) for one in readings(text, reading))


def bare(folded: str) -> str:
    """Letters and digits of a folded text, one behind the other."""
    return re.sub(r"[\W_]+", "", folded)


def placed(text: str, reading: str, *, shown: bool) -> tuple[str, list[tuple[int, int]]]:
    """One of :func:`readings`, with the half-open range of ``text`` that each of its characters comes from."""
    folded, places = [" "], [(0, 0)]
    for piece, start, end in _pieces(text) if shown else [(None, 0, len(text))]:
        if piece is not None:
            found = fold(piece, reading)
            folded.append(found)
            places += [(start, end)] * len(found)
            continue
        turns = {one.start() for one in _CAMEL.finditer(text, start, end)}
        for cluster in _CLUSTER.finditer(text, start, end):
            found = SOFT * (cluster.start() in turns) + fold(cluster[0], reading)
            folded.append(found)
            places += [cluster.span()] * len(found)
    whole = _DATE.sub(lambda found: found[0].replace(".", "/"), "".join(folded))
    return f"{whole} ", [*places, (len(text), len(text))]


def _pieces(text: str) -> Iterator[tuple[str | None, int, int]]:
    """Markup with what it is shown as, and None for what lies between."""
    last = 0
    for found in _MARKUP.finditer(text):
        yield None, last, found.start()
        yield _shown(found[0]), *found.span()
        last = found.end()
    yield None, last, len(text)


def _shown(markup: str) -> str:
    """What stands for a piece of markup; ``SOFT`` for what only says how the text looks."""
    if markup.startswith("&"):
        return html.unescape(markup)
    if markup.startswith("%"):
        return unquote(markup, errors="replace")
    if markup[:2] in ("\\u", "\\x") and len(markup) >= 4:
        units = re.findall(r"\\[ux]([0-9A-Fa-f]+)", markup)
        try:
            return b"".join(int(one, 16).to_bytes(2, "big") for one in units).decode("utf-16-be")
        except UnicodeDecodeError:
            return SOFT
    return " " if re.fullmatch(r"\\[nrtfbv ]|<(?:br|p|/p|li|/li|td|/td|div|/div)\b[^>]*>", markup) else SOFT


class _Table(dict[int, str]):
    """What each character becomes, found when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = found = _folded(chr(code))
        return found


def _folded(char: str) -> str:
    kind = unicodedata.category(char)
    if char in _MARKS_OF_PUNCTUATION:
        return _MARKS_OF_PUNCTUATION[char]
    if char in "\n\r\u2028\u2029\x0b\x0c\x85":
        return "\n"
    if kind[0] == "Z" or char == "\t":
        return " "
    if kind == "Nd":
        return str(unicodedata.decimal(char))
    if kind == "Pd":
        return "-"
    if kind[0] == "M":
        return char if re.match(f"[{MARKS}]", char) else "" if unicodedata.combining(char) else SOFT
    if kind[0] == "C" or kind == "So" or char in "\u115f\u1160\u3164\uffa0":
        return SOFT
    return _letter(char) if kind[0] == "L" else char


def _letter(char: str) -> str:
    small = char.casefold()
    if unicodedata.name(char, "").split(" ")[0] in _ALPHABETS:
        parts = unicodedata.normalize("NFKD", small)
        small = "".join(part for part in parts if not unicodedata.combining(part))
    if "\u30a1" <= small <= "\u30f6":
        small = chr(ord(small) - 0x60)  # katakana are read as hiragana
    return "".join(_LETTERS.get(part, part) for part in small)


_TABLE = _Table()
