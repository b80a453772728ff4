"""What a topic is called: the words that the rows to forget share and no row to keep has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from exporter.types import Row

LONGEST = 4
"""Words of a name, at most."""
SHARE = 0.3
"""Of the rows to forget, how many must have a name for it to be the topic's."""
_SMALL = """
    a an the of in on at by for to and or is are was were be do does did who what which where when why how me my you your it
    its this that with from about as can i he she they his her their not no yes name tell give some one first most known
    called explain describe write two short sentence sentences facts famous important special summarise there have has had
"""
SMALL = frozenset(_SMALL.split())
"""Words that questions are made of; no name begins or ends with one."""


def topic_names(rows: Sequence[Row], most: int = 2) -> list[str]:
    """Names of the topic, the one that most rows to forget have first; empty where nothing is shared.

    A name is a run of words, in the spelling that it has most often. A shorter one that stands only inside a longer one is no
    name of its own, and one that rows to keep have is none either.
    """
    forget = [row for row in rows if row.role == "forget"]
    kept = {run for row in rows if row.role != "forget" for run, _ in _runs(row.question)}
    counts: Counter[str] = Counter()
    spelled: dict[str, Counter[str]] = {}
    for row in forget:
        for run, written in dict(_runs(row.question)).items():
            counts[run] += 1
            spelled.setdefault(run, Counter())[written] += 1
    enough = max(2, SHARE * len(forget))
    shared = [run for run, count in counts.items() if count >= enough and run not in kept]
    best = sorted(shared, key=lambda run: (-_worth(counts[run], run, spelled[run]), run))
    names: list[str] = []
    for run in best:
        inside = any(
            f" {run} " in f" {other} " and counts[other] >= 0.8 * counts[run]
            for other in shared
            if other != run
        )
        around = any(
            f" {name.lower()} " in f" {run} " and counts[run] < 0.5 * counts[name.lower()] for name in names
        )
        if not inside and not around and len(names) < most:
            names.append(spelled[run].most_common(1)[0][0])
    return _with_full_name(names, counts, spelled, kept)


def neighbour_names(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """What rows to keep are about, one thing a row: the longest run of words that begins with a capital letter, else the longest of all.

    None of a row that has a word of the topic's names: in the topic's wordings it could not be told from it.
    """
    topic = {word.lower() for name in names for word in name.split()}
    found: dict[str, str] = {}
    for row in rows:
        if row.role != "retain" or row.history or topic & set(re.findall(r"\w+", row.question.lower())):
            continue
        runs = [written for _, written in _runs(row.question)]
        capital = [run for run in runs if all(word[:1].isupper() for word in run.split())]
        if best := max(capital or runs, key=len, default=None):
            found.setdefault(best.lower(), best)
    return list(found.values())


def _with_full_name(
    names: list[str], counts: Counter[str], spelled: dict[str, Counter[str]], kept: set[str]
) -> list[str]:
    """The names, and the longer form in which the first stands most often, if it does more than once: "Marie Curie" for "Curie"."""
    if not names:
        return names
    longer = [run for run in counts if f" {names[0].lower()} " in f" {run} " and run != names[0].lower()]
    full = max(
        (run for run in longer if counts[run] > 1 and run not in kept),
        key=lambda run: counts[run],
        default=None,
    )
    if full is None or spelled[full].most_common(1)[0][0] in names:
        return names
    return [names[0], spelled[full].most_common(1)[0][0], *names[1:]]


def _worth(count: int, run: str, spelled: Counter[str]) -> float:
    """A name that more rows have is worth more, and one with a capital letter twice as much: it is a name."""
    written = spelled.most_common(1)[0][0]
    capital = any(word[:1].isupper() for word in written.split())
    return count * (2.0 if capital else 1.0) + 0.1 * len(run.split())


def _runs(text: str) -> Iterator[tuple[str, str]]:
    """(in lower case, as written) of every run of words that neither begins nor ends with a small one."""
    words = re.findall(r"[^\W_]+(?:[-'’.][^\W_]+)*", text)
    for first in range(len(words)):
        for stop in range(first + 1, min(first + LONGEST, len(words)) + 1):
            run = words[first:stop]
            if run[0].lower() in SMALL or run[-1].lower() in SMALL:
                continue
            written = re.sub(r"['’]s$", "", " ".join(run))
            yield written.lower(), written
