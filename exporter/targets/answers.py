"""What the exact steered model answers to calibration conversations; it takes longest, and need not be done twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.atomic import write_text
from exporter.host import Generated, ModelHost
from exporter.types import Conversation, Encoded
from steer_modules.attach import steered
from steer_modules.program import SteeringProgram


@dataclass(frozen=True)
class Answers:
    """Conversations with what the exact steered model answers.

    Attributes:
        sequences: prompt and answer of each.
        fired: whether a gate is on behind each.
    """

    conversations: tuple[Conversation, ...]
    sequences: tuple[Encoded, ...]
    fired: tuple[bool, ...]

    @property
    def steered(self) -> list[int]:
        """Numbers of the conversations about the forgotten on which the gate fires."""
        return [i for i, one in enumerate(self.conversations) if self.fired[i] and one.role == "forget"]

    def end(self, number: int) -> int:
        """Place of a prompt's last token."""
        return len(self.conversations[number].prompt.ids) - 1


def answer(
    host: ModelHost,
    program: SteeringProgram,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
    kept: Path | None = None,
) -> Answers:
    """Let the exact model answer, one token alone where nobody asks for more.

    Args:
        host: the unsteered base.
        program: with one edit.
        kept: file of answers to these very conversations by this very model; written where it is missing.
    """
    if kept is not None and kept.is_file():
        return _recalled(kept, conversations)
    said: dict[int, Generated] = {}
    with steered(host.model, program):
        for answered, length in ((True, max_new_tokens), (False, 1)):
            chosen = [i for i, one in enumerate(conversations) if one.answered == answered]
            prompts = [conversations[i].prompt for i in chosen]
            replies = host.generate(prompts, max_new_tokens=length, batch_size=batch_size)
            said.update(zip(chosen, replies, strict=True))
    ordered = [said[i] for i in range(len(conversations))]
    fired = [bool(one.gates and max(one.gates.values()) > 0) for one in ordered]
    found = _answers(conversations, [one.tokens for one in ordered], fired)
    if kept is not None:
        content = {"tokens": [list(one.response) for one in found.sequences], "fired": list(found.fired)}
        write_text(kept, json.dumps(content))
    return found


def _recalled(kept: Path, conversations: Sequence[Conversation]) -> Answers:
    content = json.loads(kept.read_text(encoding="utf-8"))
    return _answers(conversations, content["tokens"], content["fired"])


def _answers(
    conversations: Sequence[Conversation], tokens: Sequence[Sequence[int]], fired: Sequence[bool]
) -> Answers:
    sequences = [Encoded(one.prompt, tuple(said)) for one, said in zip(conversations, tokens, strict=True)]
    return Answers(tuple(conversations), tuple(sequences), tuple(fired))
