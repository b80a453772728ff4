"""Conversations rendered by a model's own chat template, checked so that no text is dropped."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from exporter.data.clock import ASKS, day_of, fixed_clock
from exporter.errors import DataError

_PROBE = "probe of the chat template"


@dataclass(frozen=True)
class Message:
    """One message; ``role`` is system, user or assistant."""

    role: str
    text: str
    image: Path | None = None


class ChatTemplate:
    """Renders messages with the chat template of a processor or tokenizer.

    A message's content is given as a string where the template takes one, else as a list of parts;
    conversations with images always as lists. A template with the date gets one that is derived from the first question, or what
    ``clock`` says (:mod:`exporter.data.clock`).

    Raises:
        DataError: there is no chat template, or it renders no text in either form.
    """

    def __init__(self, processor: Any) -> None:
        tokenizer = getattr(processor, "tokenizer", processor)
        self.owner = next(
            (one for one in (processor, tokenizer) if getattr(one, "chat_template", None)), None
        )
        self.name = str(getattr(tokenizer, "name_or_path", "") or type(processor).__name__)
        if self.owner is None:
            raise DataError(
                f"{self.name} has no chat template, so prompts cannot be rendered; add a chat_template.jinja to its tokenizer files, or "
                "set processor.chat_template to the template the model was trained with"
            )
        self.clock: Callable[[str], str] | None = None
        self.dated = ASKS in json.dumps(self.owner.chat_template, ensure_ascii=False)
        self.as_parts = not self._keeps_text(as_parts=False)
        if self.as_parts and not self._keeps_text(as_parts=True):
            raise DataError(
                f"the chat template of {self.name} does not render the user's text, neither from a string nor from a list"
            )
        self.sees_images = False
        self.generation_prompt = self._generation_prompt()

    def render(self, messages: Sequence[Message]) -> str:
        """The text of a prompt, up to where the model's turn begins.

        Raises:
            DataError: the template refuses the conversation, or leaves out the system prompt, a question or
                the images.
        """
        images = any(message.image is not None for message in messages)
        if images and not self.sees_images:
            self._check_images()
        text = self._apply(messages, as_parts=images or self.as_parts)
        seen = 0
        for message in messages:
            words = message.text.strip()
            if message.role == "user":
                # Each question after the one before it, so that none counts for another with the same words.
                at = text.find(words, seen)
                lost, seen = at < 0, at + len(words)
            else:
                lost = message.role == "system" and words not in text
            if lost:
                raise self._left_out(message)
        return text

    def check_system(self, text: str) -> None:
        """Raises DataError where a system prompt changes nothing in what the template renders."""
        system, asked = Message("system", text), Message("user", _PROBE)
        other = Message("system", f"{text} {_PROBE}")
        if self.render([system, asked]) == self._apply([other, asked], self.as_parts):
            raise self._left_out(system)

    def _left_out(self, message: Message) -> DataError:
        what, mend = "question", "correct the template"
        if message.role == "system":
            what, mend = "system prompt", "put the system prompt into the questions instead"
        return DataError(f"the chat template of {self.name} drops the {what} {message.text[:60]!r}; {mend}")

    def _check_images(self) -> None:
        shown = [Message("user", _PROBE, Path("probe"))]
        if self._apply(shown, as_parts=True) == self._apply([Message("user", _PROBE)], as_parts=True):
            raise DataError(
                f"the chat template of {self.name} renders nothing for an image; rows with images need a vision-language model whose "
                "template renders parts of type 'image'"
            )
        self.sees_images = True

    def _keeps_text(self, as_parts: bool) -> bool:
        try:
            return _PROBE in self._apply([Message("user", _PROBE)], as_parts)
        except DataError:
            if as_parts:
                raise
            return False

    def _generation_prompt(self) -> str:
        """What the template puts before the model's turn."""
        asked = [Message("user", _PROBE)]
        whole, without = (
            self._apply(asked, self.as_parts),
            self._apply(asked, self.as_parts, begin_turn=False),
        )
        return whole[len(without) :] if whole.startswith(without) else ""

    def _apply(self, messages: Sequence[Message], as_parts: bool, begin_turn: bool = True) -> str:
        assert self.owner is not None
        asked = next((one.text for one in messages if one.role == "user"), "")
        try:
            with fixed_clock(self.clock or day_of(asked)) if self.dated else nullcontext():
                text = self.owner.apply_chat_template(
                    [{"role": one.role, "content": _content(one, as_parts)} for one in messages],
                    add_generation_prompt=begin_turn,
                    tokenize=False,
                )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            system = any(message.role == "system" for message in messages)
            mend = "; remove the system prompt, or put it into the questions" if system else ""
            raise DataError(
                f"the chat template of {self.name} raises an error for the conversation: {error}{mend}"
            ) from error
        return str(text)


def _content(message: Message, as_parts: bool) -> str | list[dict[str, str]]:
    if not as_parts:
        return message.text
    picture = [{"type": "image"}] if message.image is not None else []
    return [*picture, {"type": "text", "text": message.text}]
