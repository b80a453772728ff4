"""Responses of a generator that says what it is told to: order, open turns, spans, paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from exporter.evaluation.conversations import SILENCE, generate_responses
from exporter.types import Encoded, Prompt, Row, Span, Turn


@dataclass(frozen=True)
class Completion:
    tokens: tuple[int, ...]
    gates: Mapping[str, float] | None = None


class Characters:
    """Ids are code points; 0 is a special token."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(chr(token) for token in token_ids if token)


class FakeGenerator:
    """Answers by the last question in the prompt; remembers what it was asked, batch by batch."""

    tokenizer = Characters()

    def __init__(self, answers: Mapping[str, str]) -> None:
        self.answers = answers
        self.batches: list[list[str]] = []

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, batch_size: int = 32
    ) -> list[Completion]:
        assert (max_new_tokens, batch_size) == (9, 4)
        self.batches.append([prompt.text for prompt in prompts])
        return [self._completion(prompt.text) for prompt in prompts]

    def _completion(self, text: str) -> Completion:
        question = text.rpartition("Q:")[2].partition("|")[0]
        return Completion((*map(ord, self.answers[question]), 0), {"topic": float("secret" in text)})


class FakeChat:
    """``Q:question|A:answer|...``, reasoning between ( and )."""

    def prompt(self, row: Row) -> Prompt:
        turns = "".join(f"Q:{turn.question}|A:{turn.answer}|" for turn in row.history)
        assert "None" not in turns
        shown = [turn.image for turn in row.history] + [row.image]
        text = f"{turns}Q:{row.question}|A:{row.prefix or ''}"
        return Prompt(text, tuple(map(ord, text)), tuple(path for path in shown if path))

    def continue_with(self, prompt: Prompt, ids: Sequence[int]) -> Encoded:
        text, first = "".join(map(chr, ids)), len(prompt.ids)
        stop = text.find(")")
        end = first + len(text)
        if not text.startswith("("):
            return Encoded(prompt, tuple(ids), None, Span(first, end))
        if stop < 0:
            return Encoded(prompt, tuple(ids), Span(first + 1, end), None)
        return Encoded(prompt, tuple(ids), Span(first + 1, first + stop), Span(first + stop + 1, end))


def respond(
    answers: Mapping[str, str], rows: Sequence[Row], folder: Path = Path("/out")
) -> tuple[list, FakeGenerator]:
    generator = FakeGenerator(answers)
    options = {"name": "keyed", "folder": folder, "max_new_tokens": 9, "batch_size": 4}
    return generate_responses(generator, rows, FakeChat(), **options), generator


def test_replies_come_in_the_order_of_the_rows_and_are_taken_apart() -> None:
    rows = [
        Row("1", "one", "x", "forget"),
        Row("2", "two secret", "x", "retain"),
        Row("3", "three", "x", "reasoning"),
    ]
    cases, generator = respond({"one": "( why ) so", "two secret": "so", "three": "(on and on"}, rows)
    assert [case.row for case in cases] == rows
    assert len(generator.batches) == 1
    one, two, three = (case.last for case in cases)
    assert (one.reasoning, one.answer, one.generation.text) == ("why", "so", "( why ) so")
    assert "".join(map(chr, one.chain)) == "( why "
    assert one.generation.tokens == (*map(ord, "( why ) so"), 0)
    assert (two.reasoning, two.answer, two.chain) == (None, "so", two.generation.tokens)
    assert (three.reasoning, three.answer, three.closed) == ("on and on", None, False)
    assert three.chain == three.generation.tokens
    assert [one.fired, two.fired] == [False, True]
    assert one.generation.prompt == "Q:one|A:"


def test_open_turns_are_answered_by_the_model_itself_in_shared_batches() -> None:
    rows = [
        Row("plain", "q", "x", "forget"),
        Row("two", "q", "x", "forget", history=(Turn("a"),), prefix="<"),
        Row("three", "q", "x", "retain", history=(Turn("b"), Turn("given", "words"), Turn("a"))),
    ]
    cases, generator = respond({"q": "end", "a": "(t)A!", "b": "B!"}, rows)
    assert [case.row for case in cases] == rows, "rows keep their open turns"
    assert generator.batches == [
        ["Q:q|A:", "Q:a|A:", "Q:b|A:"],
        ["Q:a|A:(t)A!|Q:q|A:<", "Q:b|A:B!|Q:given|A:words|Q:a|A:"],
        ["Q:b|A:B!|Q:given|A:words|Q:a|A:(t)A!|Q:q|A:"],
    ]
    assert [[reply.generation.id for reply in case.replies] for case in cases] == [
        ["plain"],
        ["two#1", "two"],
        ["three#1", "three#3", "three"],
    ]
    assert {reply.generation.role for reply in cases[2].replies} == {"retain"}


@pytest.mark.parametrize("said", ["", "  "])
def test_an_empty_reply_stands_in_the_conversation_as_dots(said: str) -> None:
    _, generator = respond({"q": "end", "a": said}, [Row("1", "q", "x", "forget", history=(Turn("a"),))])
    assert generator.batches[1] == [f"Q:a|A:{SILENCE}|Q:q|A:"]


def test_images_are_named_from_the_folder_of_the_report() -> None:
    pictures = [Path(f"/out/images/{name}.png") for name in "ab"]
    rows = [
        Row("1", "q", "x", "forget", image=pictures[0]),
        Row("2", "q", "x", "forget", image=pictures[1], history=(Turn("a", image=pictures[0]),)),
        Row("3", "q", "x", "forget"),
    ]
    cases, _ = respond({"q": "end", "a": "A"}, rows)
    assert cases[0].last.generation.image == "images/a.png"
    assert [reply.images for reply in cases[1].replies] == [
        ("images/a.png",),
        ("images/a.png", "images/b.png"),
    ]
    assert cases[1].last.generation.image == "images/b.png"
    assert cases[2].last.images == () and cases[2].last.generation.image is None


def test_nothing_to_ask() -> None:
    assert respond({}, [])[0] == []
