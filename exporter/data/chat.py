"""Rows as prompts and as teacher-forced sequences, in the words and tokens of one model.

Every sequence is made of two texts that are tokenised apart: the prompt by :meth:`Chat.tokenize`, the
response on its own without special tokens. So the same ids can be computed from the prompt's text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.data.conversation import ChatTemplate, Message
from exporter.data.delimiters import Delimiter
from exporter.data.headers import generation_headers
from exporter.data.response import Response, ResponseFormat, token_span
from exporter.errors import DataError
from exporter.picture import open_rgb
from exporter.types import Encoded, Prompt, Row, Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Chat:
    """Prompts, responses and the places of reasoning and answer in them.

    Args:
        processor: the model's processor, or its tokenizer if it reads text only.
        system: a system prompt put before every conversation.
        reasoning_template: what the model writes when it reasons; ``{answer}`` alone for a model that never
            does.

    Raises:
        DataError: no chat template, one that drops the system prompt, or a tokenizer without character
            offsets.
        InputErrors: the reasoning template cannot be used.
    """

    def __init__(
        self,
        processor: Any,
        *,
        system: str | None = None,
        reasoning_template: str = "<think> {reasoning} </think> {answer}",
    ) -> None:
        self.processor = processor
        self.reasoning_template = reasoning_template
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.format = ResponseFormat.parse(reasoning_template)
        _check_tokenizer(self.tokenizer)
        self.template = ChatTemplate(processor)
        self._system = () if system is None else (Message("system", system),)
        if self._system:
            self.template.check_system(self._system[0].text)
        self._opening = Delimiter(self.format.opening, self.tokenizer)
        self._closing = Delimiter(self.format.closing, self.tokenizer)
        self._ending = Delimiter(self.format.ending, self.tokenizer)

    @cached_property
    def headers(self) -> tuple[tuple[int, ...], ...]:
        """Token ids of the generation headers, at which gates decide; raises DataError where the template has none."""
        return generation_headers(self.processor)

    @cached_property
    def takes_system(self) -> bool:
        """Whether the template renders a system prompt."""
        try:
            self.template.check_system("Be brief.")
        except DataError:
            return False
        return True

    def under(self, system: str) -> Chat:
        """The same chat under another system prompt; raises DataError where the template drops it."""
        return Chat(self.processor, system=system, reasoning_template=self.reasoning_template)

    def prompt(self, row: Row, *, question: str | None = None) -> Prompt:
        """The rendered prompt of a row: its history, image and question, then its prefix verbatim.

        Args:
            question: asked in place of the row's question, e.g. one of its paraphrases.

        Raises:
            DataError: an earlier turn has no answer yet, an image cannot be read, or the model takes none.
        """
        asked = Message("user", row.question if question is None else question, row.image)
        messages = [*self._system_of(row), *self._history(row), asked]
        images = tuple(message.image for message in messages if message.image is not None)
        text = self._without_added_bos(self.template.render(messages) + (row.prefix or ""))
        try:
            ids = self.tokenize(text, images)["input_ids"][0]
        except DataError as error:
            raise DataError(f"row {row.id}: {error}") from error
        return Prompt(text, tuple(int(token) for token in ids), images)

    def encode(
        self,
        row: Row,
        *,
        answer: str | None = None,
        reasoning: str | None = None,
        question: str | None = None,
        max_length: int | None = None,
    ) -> Encoded:
        """A teacher-forced sequence: the prompt, the response, the end token.

        Args:
            answer: used instead of the row's answer.
            reasoning: thought in place of the row's reasoning; ``""``: none at all, the plain answer.
            question: asked in place of the row's question.
            max_length: the longest sequence allowed, in tokens.

        Raises:
            DataError: a span would be empty, the sequence is longer than ``max_length``, or the prompt cannot
                be made.
        """
        prompt = self.prompt(row, question=question)
        thought = row.reasoning if reasoning is None else reasoning or None
        try:
            response = self.format.fill(row.answer if answer is None else answer, thought)
            begun = self.template.generation_prompt
            prefix = self.format.tags_in(begun) + (row.prefix or "")
            if prefix or self.format.opened_by(begun):
                response = self.format.continued(response, prefix)
            encoded = self._forced(prompt, response)
        except DataError as error:
            raise DataError(f"row {row.id}: {error}") from error
        if max_length is not None and len(encoded) > max_length:
            raise DataError(
                f"row {row.id}: {len(encoded)} tokens do not fit into max_length {max_length}, and truncation would cut a span; raise "
                "max_length or shorten the row"
            )
        return encoded

    def continue_with(self, prompt: Prompt, ids: Sequence[int], *, strict: bool = False) -> Encoded:
        """A prompt with the model's own response; spans are found in the ids by the template's delimiters.

        A response without delimiters is an answer. One whose reasoning is never closed was cut short: what
        follows the opening is its reasoning, and it has no answer. A reasoning that the prompt's end has
        opened counts as opened.

        Args:
            ids: the generated ids, with or without end and padding tokens.
            strict: raise DataError where there is no answer.
        """
        started = self.format.opened_by(self._begun(prompt.text))
        reasoning, answer = self._parts(ids, started)
        if strict and answer is None:
            raise DataError(
                f"the response of {len(ids)} tokens ends before its answer; allow more new tokens"
            )
        shift = len(prompt.ids)
        spans = [
            None if part is None else Span(part.start + shift, part.stop + shift)
            for part in (reasoning, answer)
        ]
        return Encoded(prompt, tuple(int(token) for token in ids), spans[0], spans[1])

    def split(self, ids: Sequence[int], prompt: Prompt | None = None) -> tuple[str | None, str]:
        """(reasoning text, answer text) of generated ids, without special tokens.

        White space around both is taken off. The answer is "" where the response ends before it. ``prompt``
        is needed where a row's prefix opens the reasoning.
        """
        begun = self.template.generation_prompt if prompt is None else self._begun(prompt.text)
        reasoning, answer = self._parts(ids, self.format.opened_by(begun))
        texts = [
            None if part is None else self._decode(ids[part.start : part.stop])
            for part in (reasoning, answer)
        ]
        return texts[0], texts[1] or ""

    def tokenize(
        self, text: str, images: Sequence[Path] = (), *, return_tensors: str | None = None
    ) -> Mapping[str, Any]:
        """The processor's output for one rendered prompt: ``input_ids`` [1,T] and whatever else it makes.

        Prompts begin with the BOS token only where the tokenizer adds none, or cannot add the same: those get
        no special tokens added, as Transformers does it. Any other text gets the tokenizer's own.
        """
        options: dict[str, Any] = {} if return_tensors is None else {"return_tensors": return_tensors}
        bos = self.tokenizer.bos_token
        if bos and text.startswith(bos):
            options["add_special_tokens"] = False
        if images:
            if self.processor is self.tokenizer:
                raise DataError(
                    "the model reads text only, but the row has an image; remove the image or use a vision model"
                )
            options["images"] = [open_rgb(path) for path in images]
        try:
            out: Mapping[str, Any] = self.processor(text=[text], **options)
        except (ValueError, IndexError, StopIteration) as error:
            raise DataError(
                f"the processor refuses {len(images)} images and the text {text[-120:]!r}: {error}"
            ) from error
        return out

    def _without_added_bos(self, text: str) -> str:
        """A prompt without the BOS token of its template, where the tokenizer puts it back by itself.

        So a plain ``processor(text=[prompt.text])`` makes the prompt's ids and no second BOS.
        """
        bos = self.tokenizer.bos_token
        if not bos or not text.startswith(bos):
            return text
        bare = text.removeprefix(bos)
        whole = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return bare if self.tokenizer(bare)["input_ids"] == whole else text

    def _system_of(self, row: Row) -> tuple[Message, ...]:
        """The row's own system prompt, else the chat's; raises DataError where the template drops it."""
        if row.system is None:
            return self._system
        self.template.check_system(row.system)
        return (Message("system", row.system),)

    def _history(self, row: Row) -> list[Message]:
        messages = []
        for number, turn in enumerate(row.history, start=1):
            if turn.answer is None:
                raise DataError(
                    f"row {row.id}: turn {number} of its history has no answer; generate the answer first"
                )
            said = self.format.said(turn.answer, turn.reasoning)
            messages += [Message("user", turn.question, turn.image), Message("assistant", said)]
        return messages

    def _forced(self, prompt: Prompt, response: Response) -> Encoded:
        out = self.tokenizer(response.text, add_special_tokens=False, return_offsets_mapping=True)
        first, offsets = len(prompt.ids), out["offset_mapping"]
        answer = token_span(offsets, response.answer, response.tags, first)
        reasoning = None
        if response.reasoning is not None:
            reasoning = token_span(offsets, response.reasoning, response.tags, first)
            if reasoning is None:
                raise DataError(
                    f"no token of {response.text!r} belongs to the reasoning alone; separate the reasoning from the tags by spaces or "
                    "line breaks"
                )
        if answer is None:
            raise DataError(
                f"no token of {response.text!r} belongs to the answer alone; separate the answer from the tags by spaces or line breaks"
            )
        ids, special = out["input_ids"], set(self.tokenizer.all_special_ids)
        spelled = [
            token
            for span in (reasoning, answer)
            if span is not None
            for token in ids[span.start - first : span.stop - first]
            if token in special
        ]
        if spelled:
            raise DataError(
                f"{response.text!r} contains the special token {self.tokenizer.decode(spelled[:1])!r}, which a model never generates as "
                "text; remove it"
            )
        end = self.tokenizer.eos_token_id
        return Encoded(prompt, (*out["input_ids"], *(() if end is None else (end,))), reasoning, answer)

    def _begun(self, text: str) -> str:
        """The text of the model's turn at the end of a prompt (a prefill)."""
        mark = self.template.generation_prompt
        return mark + text.rpartition(mark)[2] if mark else text

    def _parts(self, ids: Sequence[int], started: bool) -> tuple[Span | None, Span | None]:
        """Columns of (reasoning, answer) in ``ids``; ``started``: the reasoning was opened before them."""
        opened = Span(0, 0) if started else self._opening.find(ids)
        closed = self._closing.find(ids, opened.stop if opened else 0)
        if closed is None:
            whole = self._trimmed(ids, opened.stop if opened else 0, len(ids))
            return (whole, None) if opened else (None, whole)
        ended = self._ending.find(ids, closed.stop)
        reasoning = self._trimmed(ids, opened.stop if opened else 0, closed.start)
        return reasoning, self._trimmed(ids, closed.stop, ended.start if ended else len(ids))

    def _trimmed(self, ids: Sequence[int], start: int, stop: int) -> Span | None:
        """A range without the special and blank tokens at its ends, or None where nothing else is in it."""
        while start < stop and not self._decode(ids[start : start + 1]):
            start += 1
        while start < stop and not self._decode(ids[stop - 1 : stop]):
            stop -= 1
        return Span(start, stop) if start < stop else None

    def _decode(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(
            [int(token) for token in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text).strip()


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    name = str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"the tokenizer {name} ({type(tokenizer).__name__}) has no character offsets, so spans cannot be located; use a fast "
            "tokenizer (one with a tokenizer.json), which AutoTokenizer.from_pretrained returns"
        )
    plain, whole = (tokenizer("a", add_special_tokens=added)["input_ids"] for added in (False, True))
    if whole[-1:] != plain[-1:]:
        raise DataError(
            f"the tokenizer {name} appends {tokenizer.decode(whole[-1:])!r} to every text, so a prompt would end before its answer; set "
            "tokenizer.add_eos_token = False and save the tokenizer"
        )
