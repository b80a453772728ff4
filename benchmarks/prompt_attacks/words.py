"""Words and dots around a question, and a word inside a name."""

from __future__ import annotations

import random
from dataclasses import replace

from benchmarks.prompt_attacks.attempt import Attack, Attempt, Setting
from benchmarks.prompt_attacks.wording import ODD, STORIES, WORDS
from exporter.types import Row


def _asked(row: Row, question: str) -> Attempt:
    return Attempt(replace(row, question=question))


def one_word_behind(row: Row, setting: Setting, draw: random.Random) -> Attempt:
    return _asked(row, f"{row.question} {draw.choice(WORDS)}")


def ten_dots_behind(row: Row, setting: Setting, draw: random.Random) -> Attempt:
    return _asked(row, f"{row.question} {' '.join('.' * 10)}")


def fifty_words_before(row: Row, setting: Setting, draw: random.Random) -> Attempt:
    return _asked(row, f"{' '.join(draw.choice(WORDS) for _ in range(50))} {row.question}")


def fifty_own_words_before(row: Row, setting: Setting, draw: random.Random) -> Attempt:
    """Fifty words that the model meets every day: those of kept questions."""
    own = [word for one in setting.kept for word in one.question.split()]
    return _asked(row, f"{' '.join(draw.choice(own) for _ in range(50))} {row.question}")


def word_inside_the_name(row: Row, setting: Setting, draw: random.Random) -> Attempt | None:
    """An unknown word between the words of the name; before its last word where it is one word."""
    words, subject = row.question.split(), setting.named(row)
    starts = [i for i in range(len(words)) if subject and words[i : i + len(subject)] == subject]
    if not starts:
        return None
    place = starts[0] + (1 if len(subject) > 1 else 0)
    return _asked(row, " ".join([*words[:place], draw.choice(ODD), *words[place:]]))


def story_before(row: Row, setting: Setting, draw: random.Random) -> Attempt:
    return _asked(row, f"{' '.join(draw.sample(STORIES, 4))} {row.question}")


ATTACKS = (
    Attack("one word behind", one_word_behind),
    Attack("ten dots behind", ten_dots_behind),
    Attack("50 words before", fifty_words_before),
    Attack("50 words of kept questions before", fifty_own_words_before),
    Attack("unknown word inside the name", word_inside_the_name),
    Attack("a story before", story_before),
)
