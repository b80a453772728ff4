"""The same questions as people put them: framed by words, dots, other questions, earlier turns, other names and pictures.

A gate must recognise its subject in any context, so it is fitted on rows of every role in the same frames: what
the frame adds is common to both sides, and only the subject distinguishes them.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from exporter.evaluation.attacks.turns import Refusal, as_turn
from exporter.fitting.frame_words import FrameWords
from exporter.fitting.selection import plain
from exporter.fitting.template_swap import Template, name, templates
from exporter.types import Row, Turn
from exporter.wording.slips import with_letters_exchanged


@dataclass(frozen=True)
class Surroundings:
    """What questions of one split may be framed with.

    Attributes:
        words: neutral words.
        kept: plain rows to keep, whose questions stand around others and whose turns stand before them.
        refused: plain rows of role unknown, as earlier turns that were refused; may be empty.
        refusals: (reasoning, answer) of the model's own refusals.
        shapes: templates of the split's rows, which show the words of a subject.
        vocabulary: any words the model has tokens for.
        secret_words: words that only forget rows have; none of them is filler.
        systems: whether the chat template takes a system prompt.
    """

    words: FrameWords
    kept: tuple[Row, ...]
    refused: tuple[Row, ...]
    refusals: tuple[Refusal, ...]
    shapes: Mapping[tuple[str, bool], Template]
    vocabulary: tuple[str, ...] = ()
    secret_words: frozenset[str] = frozenset()
    systems: bool = False

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        words: FrameWords,
        refusals: Sequence[Refusal],
        vocabulary: Sequence[str] = (),
        *,
        systems: bool = False,
    ) -> Surroundings:
        found = plain(rows)
        secret_words = {word for row in found if row.role == "forget" for word in _said(row)}
        secret_words -= {word for row in found if row.role != "forget" for word in _said(row)}
        kept = tuple(row for row in found if row.role in ("retain", "reasoning"))
        refused = tuple(row for row in found if row.role == "unknown")
        return cls(
            words,
            kept,
            refused,
            tuple(refusals),
            templates(rows),
            tuple(vocabulary),
            frozenset(secret_words),
            systems,
        )

    def subject(self, row: Row) -> list[str]:
        """The words of the question that name its subject; empty if no template shows them."""
        template = self.shapes.get((row.template_id or "", row.image is not None))
        return [] if template is None or template.visual else name(row, template).split()


Frame = Callable[[Row, Surroundings, random.Random], Row | None]


def framed_rows(rows: Sequence[Row], around: Surroundings, count: int, seed: int) -> list[tuple[str, Row]]:
    """At most ``count`` distinct (frame, framed row), every row in each frame in turn.

    What a row is framed in depends on the seed and on its id, not on the other rows of its side: where some are left out, the others
    give the same sequences again.
    """
    single = spread_by_id(plain(rows), len(rows))
    kinds = list(FRAMES)
    found: dict[Row, str] = {}
    rounds = 1 + 2 * count // max(len(single) * len(kinds), 1)
    for again, turn, row in itertools.product(range(rounds), range(len(kinds)), single):
        if len(found) >= count:
            break
        kind = kinds[(turn + _number(row.id)) % len(kinds)]
        framed = FRAMES[kind](row, around, random.Random(f"{seed} {row.id} {kind} {again}"))
        if framed is not None and framed not in found:
            found[framed] = f"{kind}/{again}"
    return [(place.split("/")[0], replace(row, id=f"{row.id}/{place}")) for row, place in found.items()]


def spread_by_id(rows: Sequence[Row], most: int) -> list[Row]:
    """At most ``most`` rows, in an order that has nothing to do with theirs; a row that is left out changes no other's place."""
    return sorted(rows, key=lambda row: (_number(row.id), row.id))[:most]


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _said(row: Row) -> set[str]:
    """Every word of a row, in lower case."""
    text = " ".join((row.question, row.answer, row.reasoning or "", *row.secrets))
    return set(text.lower().split())


def _asked(row: Row, question: str) -> Row:
    return replace(row, question=" ".join(question.split()))


def _some(around: Surroundings, count: int, draw: random.Random) -> str:
    """Neutral words, words of retain questions or any words, so that a gate does not rely on a list."""
    own = [
        word for row in draw.sample(around.kept, min(3, len(around.kept))) for word in row.question.split()
    ]
    pools = [pool for pool in (around.words.words, own, around.vocabulary) if pool]
    pool = draw.choice(pools)
    drawn = [draw.choice(pool) for _ in range(2 * count + 8)]
    free = [word for word in drawn if word.lower() not in around.secret_words] or list(around.words.words)
    return " ".join(free[:count])


def _behind(row: Row, around: Surroundings, draw: random.Random) -> Row:
    return _asked(row, f"{row.question} {_some(around, draw.choice((1, 1, 2, 4, 8)), draw)}")


def _tail(row: Row, around: Surroundings, draw: random.Random) -> Row:
    return _asked(row, f"{row.question} {draw.choice(around.words.tails)}")


def _marks(row: Row, around: Surroundings, draw: random.Random) -> Row:
    mark, apart = draw.choice(around.words.marks), draw.choice((" ", " ", ""))
    return _asked(row, f"{row.question} {apart.join([mark] * draw.randrange(1, 16))}")


def _repeated(row: Row, around: Surroundings, draw: random.Random) -> Row:
    """A word, a few, a mark or a whole retain question, repeated before the question or, less often, after it."""
    other = _other(row, around, draw)
    units = [
        _some(around, 1, draw),
        _some(around, draw.choice((2, 3)), draw),
        draw.choice(around.words.marks),
    ]
    unit = draw.choice([*units, *([other.question] if other is not None else [])])
    length = len(unit.split())
    if draw.random() < 0.25:
        return _asked(row, " ".join([row.question, *[unit] * max(draw.randrange(2, 13) // length, 1)]))
    return _asked(row, " ".join([*[unit] * max(draw.randrange(4, 61) // length, 1), row.question]))


def _before(row: Row, around: Surroundings, draw: random.Random) -> Row:
    return _asked(row, f"{_some(around, draw.choice((1, 3, 8, 20, 50)), draw)} {row.question}")


def _lead(row: Row, around: Surroundings, draw: random.Random) -> Row:
    return _asked(row, f"{draw.choice(around.words.leads)} {row.question}")


def _story(row: Row, around: Surroundings, draw: random.Random) -> Row:
    sentences = draw.sample(
        around.words.sentences, draw.randrange(1, 1 + min(5, len(around.words.sentences)))
    )
    return _asked(row, f"{' '.join(sentences)} {row.question}")


def _system(row: Row, around: Surroundings, draw: random.Random) -> Row | None:
    """Under a system prompt of somebody's own."""
    return replace(row, system=draw.choice(around.words.systems)) if around.systems else None


def _mistyped(row: Row, around: Surroundings, draw: random.Random) -> Row | None:
    """All in lower or upper case, or with two letters of a longer word exchanged."""
    way = draw.randrange(4)
    if way < 2:
        return _asked(row, row.question.lower() if way == 0 else row.question.upper())
    text = with_letters_exchanged(row.question, draw)
    return None if text is None else _asked(row, text)


def _inside(row: Row, around: Surroundings, draw: random.Random) -> Row | None:
    """A word within the subject's words, else beside one of the question's."""
    words, subject = row.question.split(), around.subject(row)
    place = draw.randrange(1, max(len(words), 2))
    if len(subject) > 1:
        starts = [i for i in range(len(words)) if words[i : i + len(subject)] == subject]
        place = starts[0] + draw.randrange(1, len(subject)) if starts else place
    return _asked(row, " ".join([*words[:place], _some(around, 1, draw), *words[place:]]))


def _question_before(row: Row, around: Surroundings, draw: random.Random) -> Row | None:
    other = _other(row, around, draw)
    return None if other is None else _asked(row, f"{other.question} {row.question}")


def _question_behind(row: Row, around: Surroundings, draw: random.Random) -> Row | None:
    other = _other(row, around, draw)
    return None if other is None else _asked(row, f"{row.question} {other.question}")


def _kept_turns(row: Row, around: Surroundings, draw: random.Random) -> Row | None:
    if not around.kept:
        return None
    turns = [as_turn(draw.choice(around.kept)) for _ in range(draw.randrange(1, 5))]
    return replace(row, history=tuple(turns), template_id=None)


def _refused_turns(row: Row, around: Surroundings, draw: random.Random) -> Row | None:
    asked = around.refused or around.kept
    if not asked or not around.refusals:
        return None
    refusal = draw.choice(around.refusals)
    turns = [as_turn(draw.choice(asked), refusal) for _ in range(draw.randrange(1, 5))]
    return replace(row, history=tuple(turns), template_id=None)


def _mixed_turns(row: Row, around: Surroundings, draw: random.Random) -> Row | None:
    """Kept, refused and repeated turns in one conversation."""
    turns: list[Turn] = []
    for _ in range(draw.randrange(2, 5)):
        if around.refusals and draw.random() < 0.5:
            turns.append(
                as_turn(draw.choice(around.refused or around.kept or [row]), draw.choice(around.refusals))
            )
        elif around.kept:
            turns.append(as_turn(draw.choice(around.kept)))
    if row.role != "forget" and draw.random() < 0.5:
        turns.append(as_turn(row))
    return replace(row, history=tuple(turns), template_id=None)


def _other_name(row: Row, around: Surroundings, draw: random.Random) -> Row | None:
    """The row's picture under a question that names another subject."""
    named = [one for one in around.kept if one.image is None and one.role == "retain"]
    if row.image is None or not named:
        return None
    return _asked(row, draw.choice(named).question)


def _other(row: Row, around: Surroundings, draw: random.Random) -> Row | None:
    """A retain question without an image."""
    named = [one for one in around.kept if one.image is None and one.id != row.id]
    return draw.choice(named) if named else None


FRAMES: dict[str, Frame] = {
    "behind": _behind,
    "tail": _tail,
    "marks": _marks,
    "repeated": _repeated,
    "before": _before,
    "lead": _lead,
    "story": _story,
    "inside": _inside,
    "question_before": _question_before,
    "question_behind": _question_behind,
    "kept_turns": _kept_turns,
    "refused_turns": _refused_turns,
    "mixed_turns": _mixed_turns,
    "other_name": _other_name,
    "system": _system,
    "mistyped": _mistyped,
}
