"""Names that begin as the topic's does are found by how a model goes on from every beginning, and the topic is none of them."""

from __future__ import annotations

import pytest

from exporter.topics.namesakes import namesakes

KNOWN = {
    "Mount": [" Everest is high", " Fuji is in", " Everest", " Kilimanjaro and", " of the", " Etna"],
    "da": [" Vinci was"],
    "Vin": ["cent van", "ci painted", "egar is"],
    "Leonardo": [" da Vinci", " DiCaprio won", "'s art"],
    "Leonardo da": [" Vinci"],
    "Leonardo da Vin": ["ci", "cenzo"],
}


def cut(name: str) -> list[str]:
    """Words, and "Vinci" in two."""
    pieces = [f" {word}" for word in name.split()]
    return [part for piece in pieces for part in ([" Vin", "ci"] if piece == " Vinci" else [piece])]


def found(names: list[str], most: int = 12) -> list[str]:
    return namesakes(names, cut, lambda begun: [KNOWN.get(text, []) for text in begun], most)


def test_what_begins_alike_is_found_and_the_topic_is_not() -> None:
    assert found(["Everest", "Mount Everest"]) == ["Mount Fuji", "Mount Kilimanjaro", "Mount Etna"]
    assert found(["Leonardo da Vinci", "da Vinci"]) == ["Leonardo DiCaprio", "Vincent", "Vinegar"]


def test_what_stands_for_the_topic_by_itself_begins_nothing_else() -> None:
    names = ["Leonardo", "Leonardo da Vinci", "Mount Everest"]
    assert not any(other.startswith("Leonardo") for other in found(names))


def test_one_or_two_are_too_few_to_learn_from() -> None:
    assert found(["Mount Everest"], most=2) == []


def test_a_name_of_one_piece_has_none_and_nobody_is_asked() -> None:
    assert namesakes(["photosynthesis"], cut, lambda _: pytest.fail("asked"), 12) == []
    assert found([]) == []


def test_all_beginnings_have_their_turn_before_one_has_a_second() -> None:
    names = found(["Mount Everest", "Leonardo da Vinci"], most=3)
    assert names == ["Mount Fuji", "Leonardo DiCaprio", "Vincent"]  # not Kilimanjaro


def test_a_possessive_is_not_part_of_a_name() -> None:
    said = {"Albert": ["'s idea", " Camus's book", "ine's hat", " Einstein's", "a's name"]}
    others = namesakes(["Albert Einstein"], cut, lambda begun: [said[text] for text in begun], 12)
    assert others == ["Albert Camus", "Albertine", "Alberta"]
