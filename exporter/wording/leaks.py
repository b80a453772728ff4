"""Whether a text contains a secret in any spelling: looser than the match of right answers, because a missed leak is worse than a false one.

One matcher for what is fitted, reported and published. It reads through case, accents, width, invisible characters, quotes, hyphens, markup,
separators of thousands, the spacing between numbers, ordinals of days, letters spelled one by one, particles and endings behind a name, and
letters that look like Latin ones. It does not read other words for the same: numbers in words, translations, other scripts than a secret is
written in, parts of names, ciphers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from exporter.wording.figures import ways
from exporter.wording.folding import MARKS, READINGS, SOFT, bare, fold, letters, placed, readings
from exporter.wording.words import contains_any, found_in, words_of

_HANGUL = "\uac00-\ud7a3"
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_APART = f"[{_UNSPACED}{_HANGUL}]"
"""Letters beside which a word of another script has an edge."""
_BEFORE = rf"(?:(?<![^\W\d_])(?<![{MARKS}])|(?<={_APART}))"
_AFTER = rf"(?:(?![^\W\d_])(?![{MARKS}])|(?={_APART}))"
"""Where a word may begin and end: no letter of its kind goes on there."""
_WITHIN = rf"(?:[{SOFT}*_`~\\{{}}]{{1,8}}|-[ \t]*\n[ \t]*|-)?"
"""What may stand between two letters of a word: markup, or a hyphen."""
_IN_NUMBER = rf"[{SOFT}*_`~]{{0,4}}"
_THOUSANDS = rf"(?:\\,|\\ |\{{,\}}|[ ,.'_{SOFT}]){_IN_NUMBER}"
_IN_LONG_NUMBER = rf"[ \-./(){SOFT}]{{0,2}}"
_GROUPED = re.compile(r"(?<!\d)(?<!\d[.,])\d{1,3}([ ,.'_])(?:\d{2,3}\1)*\d{3}(?!\d)")
_MARKUP = rf"\s*_'~{SOFT}"
"""For use in a character class, as the next; backticks are read as quotes."""
_BETWEEN_SHORT, _BETWEEN_LONG = rf"{_MARKUP}\-/:", rf"{_MARKUP}\-/:.()"
"""What two numbers of a secret may be parted by, whatever parts them in the secret."""
_SIGNS = (",;،؛、", "'\"", "/⁄∕", ":∶", ".")
"""Signs that are written for one another."""
_PIECE = re.compile(
    rf"(?P<number>\d+)|(?P<hangul>[{_HANGUL}]+)|(?P<unspaced>[{_UNSPACED}]+)"
    rf"|(?P<word>(?:(?![{_UNSPACED}{_HANGUL}])(?:[^\W\d_]|[{MARKS}]))+)"
)
_ORNAMENT = re.compile(rf"[\s'\".,;:!?()\[\]{{}}*_`~{SOFT}]+")
_ARTICLE = re.compile(r"(?:the|an?)\s+(?=\w{4})|l'(?=\w{3})")
_ORDINAL = "(?!(?:st|nd|rd|th)(?![a-z]))"
_PARTICLES = "은는이가을를의에도와과로만께서부터까지라며나야아여씨님"
_OF_ARABIC = "(?:[وف]?[بكل]?(?:ال|ل)?)"
_OF_HEBREW = "[ושהבלמכ]{0,2}"
_FILE = 1 << 16
"""Characters from which on a text is a file, which is searched for whole words only where it has their letters: a second instead of ten."""
_LONG = 6
"""Letters or digits from which on a secret's words, or a number's digits, are found without what parts them."""


class _Piece(NamedTuple):
    """Letters or digits of one kind, with what stands before them in the secret."""

    kind: str
    text: str
    gap: str


def tells(text: str, secrets: Iterable[str]) -> bool:
    """Whether a text contains one of the secrets; every secret in it as whole words counts."""
    some = tuple(secrets)
    whole = some if len(text) < _FILE else [secret for secret in some if _may_stand_in(text, secret)]
    return contains_any(text, whole) or any(_read(text, secret) for secret in some)


def told_at(text: str, secret: str) -> tuple[int, int] | None:
    """First occurrence of a secret: half-open range of characters of ``text``; None if there is none."""
    spans = [] if (span := found_in(text, secret)) is None else [span]
    for reading, pattern in _patterns_for(text, secret):
        for shown in (False, True):
            folded, places = placed(text, reading, shown=shown)
            if found := pattern.search(folded):
                spans.append((places[found.start()][0], places[found.end() - 1][1]))
    if not spans:
        return (0, len(text)) if tells(text, (secret,)) else None
    return min(spans)


def words_read(text: str) -> set[str]:
    """Every word of a text, in each way in which it can be read."""
    seen = {one for reading in READINGS for one in readings(text, reading)}
    return {word for one in seen for apart in ("", " ") for word in words_of(one.replace(SOFT, apart))}


def parts_told(text: str, secrets: Iterable[str]) -> bool:
    """Whether a text contains one of the secrets literally, within longer words too."""
    seen = [one.replace(SOFT, "") for one in readings(text, READINGS[0])]
    wanted = (part for secret in secrets for part in _forms(secret, READINGS[0])[:1])
    return any(part.replace(SOFT, "") in one for part in wanted for one in seen)


def _may_stand_in(text: str, secret: str) -> bool:
    """Whether a text has the letters of a secret in a row, or the secret has none."""
    wanted = [bare(form) for form in _forms(secret, READINGS[0])[:1]]
    return not any(wanted) or any(one in seen for one in wanted for seen in letters(text, READINGS[0]))


def _read(text: str, secret: str) -> bool:
    return any(
        pattern.search(one)
        for reading, pattern in _patterns_for(text, secret)
        for one in readings(text, reading)
    )


def _patterns_for(text: str, secret: str) -> Iterator[tuple[str, re.Pattern[str]]]:
    """The readings in which a text has all the letters of a secret in a row, with what finds it there."""
    plain = text.isascii() and secret.isascii()  # and is read in one way only
    for reading in READINGS[:1] if plain else READINGS:
        for form in _forms(secret, reading):
            letters_of = bare(form)
            if any(letters_of in one for one in letters(text, reading)) and (pattern := _pattern(form)):
                yield reading, pattern


@lru_cache(maxsize=1 << 14)
def _forms(secret: str, reading: str) -> tuple[str, ...]:
    """A secret folded, first as it stands: with and without an article before it, its figures in each way in which they are written."""
    whole = fold(secret, reading).strip(f" \n.!?,;:{SOFT}")
    whole = _GROUPED.sub(lambda number: re.sub(r"\D", "", number[0]), whole)
    forms = (form for one in ways(whole) for form in (one, _ARTICLE.sub("", one, count=1)))
    return tuple(form for form in dict.fromkeys(forms) if form)


@lru_cache(maxsize=1 << 14)
def _pattern(form: str) -> re.Pattern[str] | None:
    """What finds a folded secret; None for one that has nothing to be read."""
    pieces = list(_pieces(form))
    size = sum(len(piece.text) for piece in pieces)
    if not pieces:
        return None
    symbols = _ORNAMENT.sub("", re.sub(r"[\w\-]|[" + MARKS + "]", "", form))
    if size <= 2 and (symbols or form[0] == "-" or form[-1] == "-"):
        return _literal(form)  # C++ is not C, and -5 not 5
    ways = [_edged(pieces, "".join(_joined(pieces, size)))]
    if all(piece.kind != "number" for piece in pieces) and size >= 2:
        ways.append(_edged(pieces, _spelled(pieces, size)))
    return re.compile("|".join(ways))


def _pieces(form: str) -> Iterator[_Piece]:
    last = 0
    for found in _PIECE.finditer(form):
        yield _Piece(str(found.lastgroup), found[0], form[last : found.start()])
        last = found.end()


def _literal(form: str) -> re.Pattern[str]:
    """What finds a secret of a letter or two with the signs that belong to it."""
    signs = rf"[\s{SOFT}]*".join(re.escape(char) for char in form if not char.isspace() and char != SOFT)
    before = r"(?<![^\W_])" if form[0].isalnum() else ""
    return re.compile(before + signs + (r"(?![^\W_])" if form[-1].isalnum() else ""))


def _joined(pieces: Sequence[_Piece], size: int) -> Iterator[str]:
    """The pieces one behind the other, with whatever may stand between them."""
    for number, piece in enumerate(pieces):
        if number:
            yield _gap(pieces, number, size)
        within = r"[\W_]{0,2}" if piece.kind == "unspaced" else _WITHIN
        yield _number(piece.text) if piece.kind == "number" else within.join(map(re.escape, piece.text))


def _gap(pieces: Sequence[_Piece], place: int, size: int) -> str:
    """What may stand before a piece of a secret of so many letters and digits."""
    before, after = pieces[place - 1 : place + 1]
    gap = after.gap.replace(SOFT, "")
    numbers = (before.kind == "number") + (after.kind == "number")
    if numbers == 2:
        return _between(pieces, place, size)
    if numbers == 1 and not gap and SOFT in after.gap:
        return rf"[\s\-_^*{SOFT}]{{0,6}}"  # of 50°C, where a space may stand too
    if numbers == 1 and not gap:
        return r"[\W_]{0,2}" if size > 3 else rf"[\-_^{SOFT}]?"
    apart = before.kind == after.kind == "word" and gap != ""
    least = 1 if apart and size < (_LONG if " " in gap or "\n" in gap else 3) else 0
    return rf"[\W_]{{{least},12}}"


def _between(pieces: Sequence[_Piece], place: int, size: int) -> str:
    """What may stand between two numbers: what parts them in the secret, in any spacing and markup; never nothing between short ones."""
    gap = pieces[place].gap.replace(SOFT, "")
    listed = gap == "," and _is_in_a_list(pieces, place)
    if gap in (".", ",") and not listed:
        return rf"{_IN_NUMBER}[.,]{_IN_NUMBER}"
    if "×" in gap:
        return rf"[\s_'~]{{0,4}}[×*{SOFT}][×{_MARKUP}]{{0,7}}"
    own = {
        sign
        for char in re.sub(r"\s", "", gap)
        for sign in next((some for some in _SIGNS if char in some), char)
    }
    own |= {"."} if listed else set()
    if size >= _LONG and any(piece.kind != "number" for piece in pieces):
        own.add(",")  # of a date
    signs = re.escape("".join(sorted(own)))
    if size >= _LONG:
        return rf"[{_BETWEEN_LONG}{signs}]{{0,8}}"
    other = "" if listed else rf"(?!{_IN_NUMBER}\.{_IN_NUMBER}\d)"  # 4.8 is not 4 and 8
    return rf"{other}[{_BETWEEN_SHORT}{signs}]{{1,8}}"


def _is_in_a_list(pieces: Sequence[_Piece], place: int) -> bool:
    """Whether a comma is none of a decimal: a neighbouring number has its own."""
    beside = [one for one in (place - 1, place + 1) if 0 < one < len(pieces)]
    return any(
        pieces[one - 1].kind == pieces[one].kind == "number" and pieces[one].gap in (".", ",")
        for one in beside
    )


def _number(digits: str) -> str:
    """A whole number, with or without separators at its thousands, lakhs or ten thousands, or digit by digit."""
    if len(digits) < 4:
        return _IN_NUMBER.join(digits)
    if len(digits) >= _LONG:
        return rf"(?:{_IN_LONG_NUMBER}|{_THOUSANDS})".join(digits)
    parted = digits[0] + "".join(
        (f"(?:{_THOUSANDS})?{_IN_NUMBER}" if len(digits) - place in (3, 4) else _IN_NUMBER) + digit
        for place, digit in enumerate(digits[1:], 1)
    )
    return rf"(?:{parted}|{'[ -]'.join(digits)})"


def _spelled(pieces: Sequence[_Piece], size: int) -> str:
    """The letters one by one, the same one to three signs between any two of a word, and invisible ones between those."""
    words = [list(map(re.escape, piece.text)) for piece in pieces]
    first, *rest = words[0]
    sign, more = (r"\.", ()) if size == 2 else (rf"(?!{SOFT})[\W_]", ("two", "three"))
    parted = (
        f"{SOFT}*(?P<one>{sign})" + "".join(f"(?:{SOFT}*(?P<{name}>{sign}))?" for name in more) + f"{SOFT}*"
    )
    again = f"{SOFT}*(?P=one)" + "".join(f"(?({name}){SOFT}*(?P={name}))" for name in more) + f"{SOFT}*"
    start = first + (parted + again.join(rest) if rest else "")
    if not rest:
        return start + "".join(r"[\W_]{1,6}" + r"[\W_]{1,3}".join(word) for word in words[1:])
    return start + "".join(r"[\W_]{1,6}" + again.join(word) for word in words[1:])


def _edged(pieces: Sequence[_Piece], inner: str) -> str:
    """The pattern with the edges that its first and its last piece need."""
    first, last = pieces[0], pieces[-1]
    if len(pieces) == 1 and first.kind == "number" and len(first.text) > 2:
        sides = f"(?:{_BEFORE}{inner}|{inner}{_AFTER})"  # of 1250km and USD1250, not of a hash
        return _before_number(first.text) + sides + _after_number(first.text)
    before = _before_number(first.text) if first.kind == "number" and len(pieces) > 1 else _edge_before(first)
    return before + inner + _edge_after(last)


def _edge_before(piece: _Piece) -> str:
    if piece.kind == "unspaced":
        return ""
    if piece.kind == "hangul":
        return "" if len(piece.text) > 2 else f"(?<![{_HANGUL}])"
    if piece.kind == "number":
        return _before_number(piece.text) + ("" if len(piece.text) > 2 else _BEFORE)
    edge = _BEFORE + ("" if len(piece.text) > 4 else r"(?<!\d)")
    if re.match("[\u0620-\u064a]", piece.text) and len(piece.text) > 2:
        return edge + _OF_ARABIC
    return edge + (_OF_HEBREW if re.match("[\u05d0-\u05ea]", piece.text) and len(piece.text) > 2 else "")


def _edge_after(piece: _Piece) -> str:
    if piece.kind == "unspaced" or (piece.kind == "hangul" and len(piece.text) > 1):
        return ""
    if piece.kind == "hangul":
        return f"(?:[{_PARTICLES}]{{0,2}}(?![{_HANGUL}]))"
    if piece.kind == "number":
        return _after_number(piece.text) + (_ORDINAL if len(piece.text) > 1 else _AFTER)
    plural = "(?:e?s)?" if len(piece.text) > 2 and re.match("[a-z]", piece.text[-1]) else ""
    return plural + _AFTER + ("" if len(piece.text) > 4 else r"(?!\d)")


def _before_number(digits: str) -> str:
    """A number is no end of a longer one, of a fraction or of a negative one; a year may stand behind another's comma."""
    year = r"|(?<=\D\d{4}[.,])" if len(digits) == 4 else ""
    return rf"(?<!\d)(?:(?<!\d[.,]){year})(?<!(?<!\w)-)"


def _after_number(digits: str) -> str:
    """Nor the beginning of one; a whole number may have noughts behind its point."""
    year = r"(?!\d{4}(?!\d))" if len(digits) == 4 else ""
    return rf"(?!\d)(?![.,](?!0{{1,2}}(?!\d)){year}\d)"
