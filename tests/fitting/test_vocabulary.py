"""Filler words are whole words of one token, and either split has its own."""

from __future__ import annotations

import string

import planted

from exporter.fitting import vocabulary
from exporter.fitting.vocabulary import spoken_words


class Pieces:
    """A tokenizer with words, pieces of words, numbers, other scripts, one-letter words and an end token."""

    words = tuple(a + b for a in string.ascii_lowercase for b in "aeiou")
    others = ("x1", "a-b", "é", "дом", "q", " ", "12")
    all_special_ids = (999,)

    def get_vocab(self):
        return {word: place for place, word in enumerate((*self.words, *self.others))} | {"end": 999}

    def decode(self, ids):
        return " end" if ids == [999] else " " + (*self.words, *self.others)[ids[0]]


def test_halves_are_apart_and_whole_together():
    fit, held = (spoken_words(Pieces(), split) for split in ("fit", "calibrate"))
    assert not set(fit) & set(held)
    assert sorted((*fit, *held)) == sorted(Pieces.words)
    assert abs(len(fit) - len(held)) <= 1
    assert fit == spoken_words(Pieces(), "fit")
    assert list(fit) != sorted(fit)


def test_at_most_so_many(monkeypatch):
    monkeypatch.setattr(vocabulary, "_MOST", 10)
    assert [len(spoken_words(Pieces(), split)) for split in ("fit", "calibrate")] == [10, 10]


def test_of_a_model_only_its_own_words():
    fit, held = (spoken_words(planted.tokenizer(), split) for split in ("fit", "calibrate"))
    assert {*fit, *held} == {word for word in planted.VOCABULARY if len(word) > 1 and word.isalpha()}


def test_a_tokenizer_without_a_vocabulary_has_none():
    assert spoken_words(object(), "fit") == ()
