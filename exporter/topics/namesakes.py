"""Other things whose names begin as the topic's does: "Mount Fuji" beside "Mount Everest", "Vincent" beside "da Vinci".

A gate that reads every token sees the beginning of a name before it can know whose it is, so it has to be shown both. The base is
asked for them: it goes on from every beginning of the topic's name, in its own tokens, with what it finds likeliest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from exporter.topics.subjects import SMALL

Continue = Callable[[Sequence[str]], Sequence[Sequence[str]]]
"""From beginnings of a text to what may come next after each, likeliest first, and each as a few words go on."""
FEWEST = 3
"""Of fewer a gate learns those things by heart, not that the name may go on in another way."""
_NAME = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*(?: [A-Z][^\W\d_]+)?")


def namesakes(
    names: Sequence[str], pieces: Callable[[str], Sequence[str]], going_on: Continue, most: int
) -> list[str]:
    """At most ``most`` names that begin like one of the topic's and are not names of it, from all beginnings in turn; empty if there are few.

    A beginning that is itself a name of the topic stands for it: who forgets "Leonardo" keeps no Leonardo.

    Args:
        names: of the topic.
        pieces: cuts a name as the model's tokenizer does; joined they are the name.
        going_on: what the base says behind each beginning.
    """
    spoken = [one for name in names for one in (name, name.split()[-1])]
    begins = dict.fromkeys(beginning for one in spoken for beginning in _beginnings(pieces(one)))
    begun = [one for one in begins if one.lower() not in {name.lower() for name in names}]
    if not begun:
        return []
    found = [
        [other for text in texts if (other := _name(beginning + text, names)) is not None]
        for beginning, texts in zip(begun, going_on(begun), strict=True)
    ]
    others = list(dict.fromkeys(_in_turn(found)))[:most]
    return others if len(others) >= FEWEST else []


def _beginnings(pieces: Sequence[str]) -> Iterator[str]:
    """What stands before every piece but the first, longest last; a single letter begins too many things."""
    for count in range(1, len(pieces)):
        if len(text := "".join(pieces[:count]).strip()) > 1:
            yield text


def _name(text: str, names: Sequence[str]) -> str | None:
    """The name that a text begins with; None where it is a word of questions or of the topic's last words."""
    match = _NAME.match(text)
    if match is None or not match[0][0].isupper():
        return None
    found = re.sub(r"['’]s$", "", match[0])
    words, own = found.lower().split(), [name.lower().split() for name in names]
    questions = {word for name in own for word in name} | SMALL
    return None if questions.issuperset(words) or words[-1] in [name[-1] for name in own] else found


def _in_turn(lists: Sequence[Sequence[str]]) -> Iterator[str]:
    """The first of each, then the second of each, and so on."""
    for place in range(max(map(len, lists), default=0)):
        yield from (some[place] for some in lists if place < len(some))
