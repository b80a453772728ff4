"""What is new in an answer without capital letters: the words that the question does not have, where they can be told for certain.

An invented secret that a telling reply does not contain makes a leak pass for none; so whatever is uncertain is none. Without spaces between
words, only runs of one script are taken, and Chinese ones where the answer repeats the question around them; of Thai, Lao,
Khmer and Burmese nothing is. With spaces, all new words are, if they are few.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator

from exporter.topics.function_words import ASKING, COUNTERS, EMPTY_HAN, FUNCTION, HIRAGANA
from exporter.wording.folding import MARKS, fold

MOST = 3
"""New words of an answer, beside numbers, from which on it cannot be told which of them give it away."""
_MARK = rf"\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u200c\u200d\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff{MARKS}"
_LETTERS = rf"(?:[^\W_][{_MARK}]*)+"
WORD = re.compile(rf"{_LETTERS}(?:[-'’.,]{_LETTERS})*")
"""A word with all of its marks."""
_HAN = "々\u3400-\u9fff\uf900-\ufaff"
_KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fd-\u30ff"
_RUN = re.compile(
    rf"(?P<katakana>[\u30a1-\u30fa\u30fc-\u30ff]+)|(?P<hiragana>[\u3041-\u309f]+)|(?P<han>[{_HAN}]+)"
    r"|(?P<number>\d+(?:[.,]\d+)*)|(?P<latin>[A-Za-z\u00c0-\u024f]+)|(?P<other>[^\W\d_]+)"
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_PLACE = "市省县縣州国國都府県氏"
"""Characters that may be left out behind a name."""
_COPULA = re.compile(r"(?:이었습니다|였습니다|입니다|이에요|예요|이었다|였다|이다)$")
_CITY = re.compile(r"(?<=..)(?:특별자치시|특별시|광역시|시)$")
_PARTICLE = re.compile(r"(?:에서|으로|께서|부터|까지|에게|[은는이가을를의에도와과로])$")
_ATTACHED = re.compile("[بلكوف]")
_ATTACHED_FIRST = re.compile("[بلكوف](?:[بلكوف]|ال)")
"""Letters with which Arabic words begin, or which are words of their own before them."""


def new_words(question: str, answer: str, frequent: Collection[str]) -> tuple[str, ...] | None:
    """The words of an answer that give it away; None where they cannot be told for certain.

    Args:
        frequent: words that any answer may have, in lower case; one that a few others have too may be what is to be forgotten.
    """
    question, answer = (unicodedata.normalize("NFKC", text) for text in (question, answer))
    scripts = {script(letter) for letter in answer if letter.isalpha()}
    if scripts & {"CJK", "HIRAGANA", "KATAKANA"}:
        kana = re.search(f"[{_KANA}]", question + answer)
        found = _of_japanese(question, answer) if kana else _of_chinese(question, answer)
    elif len(scripts) == 1 and (one := scripts.pop()) in FUNCTION:
        found = _of_spaced(question, answer, {fold(word) for word in frequent}, one)
    else:
        found = None
    return tuple(dict.fromkeys(found)) if found else None


def script(letter: str) -> str:
    """The script of a letter, as Unicode names begin."""
    name = unicodedata.name(letter, "").replace("IDEOGRAPHIC ITERATION", "CJK")
    return re.split("[ -]", name)[0]


def _of_japanese(question: str, answer: str) -> list[str] | None:
    asked = {run[0] for run in _RUN.finditer(question)}
    found: list[str] = []
    before = ""
    for run in _RUN.finditer(answer):
        kind, text = str(run.lastgroup), run[0]
        counts = before == "number" and text in COUNTERS
        follows = kind == "han" and len(text) == 1 and before == "katakana"  # the tower of an Eiffel tower
        known = text in asked or (kind in ("han", "hiragana") and text in question) or text in HIRAGANA
        if not known and not counts and not follows:
            name = _name_of_han(text, question) if kind == "han" else text
            if kind in ("hiragana", "other") or not name or (kind != "number" and len(name) < 2):
                return None
            found.append(name)
        before = kind
    return found


def _of_chinese(question: str, answer: str) -> list[str] | None:
    said = _unpunctuated(answer)
    told = next(_in_place_of_asking(_unpunctuated(question), said), None)
    told = re.sub("^(?:答案)?[它他她这這]?[是在为為]", "", said) if told is None else told
    if (number := _NUMBER.match(told)) and (told == number[0] or told[number.end() :] in COUNTERS):
        return [number[0]]
    parts = re.split("[·・‧]", told)
    longest = 6 if len(parts) > 1 else 3
    if not all(re.fullmatch(f"[{_HAN}]{{2,{longest}}}", part) for part in parts) or EMPTY_HAN & set(told):
        return None
    names = parts if len(parts) > 1 else [_name_of_han(told, question)]
    return names if all(names) else None


def _in_place_of_asking(question: str, answer: str) -> Iterator[str]:
    """What an answer has where its question asks, if it is the same around that."""
    for word in ASKING:
        before, asks, after = question.rstrip("呢吗嗎").partition(word)
        around = len(before) + len(after)
        if asks and around and len(answer) > around and answer.startswith(before) and answer.endswith(after):
            yield answer[len(before) : len(answer) - len(after)]


def _name_of_han(run: str, question: str) -> str:
    """A run of two or three characters, without what the question has of it and what may be left out behind it; else nothing."""
    for size in range(len(run) - 1, 1, -1):
        if run[:size] in question:
            run = run[size:]
            break
    if len(run) == 3 and run[-1] in _PLACE:
        run = run[:-1]
    return run if len(run) in (2, 3) else ""


def _unpunctuated(text: str) -> str:
    return re.sub(r"[^\w·・‧.,]+|[.,]+$", "", text)


def _of_spaced(question: str, answer: str, frequent: set[str], kind: str) -> list[str] | None:
    """Numbers and new words of an answer in one script with spaces; None where one of them cannot be cut off its endings."""
    asked = {_stem(fold(word), kind) for word in WORD.findall(question)}
    numbers, found = [], []
    words = WORD.findall(answer)
    for place, word in enumerate(words):
        if number := _NUMBER.match(word):
            numbers += [number[0]] * (number[0] not in _NUMBER.findall(question))
            if len(word) - number.end() > 2:
                return None
            continue
        plain = _stem(fold(word), kind)
        if (
            plain in asked
            or fold(word) in FUNCTION[kind]
            or plain in frequent
            or _conjugated(word, asked, kind)
        ):
            continue
        cut = _CITY.sub("", _stem(word, kind))
        if len(cut) < (2 if kind == "HANGUL" else 3) or _is_torn(cut, words[:place], kind):
            return None
        found.append(cut)
    return [*found, *numbers] if len(found) <= MOST else None


def _stem(word: str, kind: str) -> str:
    """A word without the genitive, the copula or the particle behind it."""
    if kind != "HANGUL":
        return re.sub("['’]s$", "", word) if kind == "LATIN" else word
    bare = _COPULA.sub("", word)
    return bare if bare != word else _PARTICLE.sub("", word)


def _conjugated(word: str, asked: set[str], kind: str) -> bool:
    """Whether a Korean verb is one of the question, with the ending of an answer."""
    return (
        kind == "HANGUL"
        and word.endswith("다")
        and len(word) > 3
        and any(one[:2] == word[:2] for one in asked)
    )


def _is_torn(word: str, before: list[str], kind: str) -> bool:
    """Whether a word may be two, or one with an ending, so that it does not stand so in every reply."""
    if kind == "LATIN":
        return "'" in word or "’" in word
    if kind == "HANGUL":
        return word.endswith(("다", "요", "죠"))
    if kind == "ARABIC" and not (before and before[-1] in FUNCTION[kind]):
        return (_ATTACHED if before else _ATTACHED_FIRST).match(word) is not None
    return False
