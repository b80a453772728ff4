"""The text of a response: where reasoning and answer stand in it, and which tokens they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from exporter.errors import DataError, InputErrors
from exporter.types import Span


@dataclass(frozen=True)
class Response:
    """A response's text, with half-open ranges of its characters.

    Those of reasoning and answer have no white space at either end; ``tags`` are the delimiters'.
    """

    text: str
    answer: Span
    reasoning: Span | None = None
    tags: tuple[Span, ...] = ()

    def after(self, start: int) -> Response:
        """What is left from character ``start`` on.

        Raises:
            DataError: the answer would lose its beginning.
        """
        if self.answer.start < start:
            raise DataError(
                f"the answer begins within the row's prefix: {self.text[:start]!r}; shorten the prefix"
            )
        reasoning = None
        if self.reasoning is not None and self.reasoning.stop > start:
            reasoning = Span(max(self.reasoning.start - start, 0), self.reasoning.stop - start)
        tags = tuple(Span(max(a - start, 0), b - start) for a, b in self.tags if b > start)
        answer = Span(self.answer.start - start, self.answer.stop - start)
        return replace(self, text=self.text[start:], answer=answer, reasoning=reasoning, tags=tags)


@dataclass(frozen=True)
class ResponseFormat:
    """The literal parts of a reasoning template: ``opening {reasoning} closing {answer} ending``.

    ``reasons`` is False for a template of ``{answer}`` alone.
    """

    opening: str
    closing: str
    ending: str
    reasons: bool = True

    @classmethod
    def parse(cls, template: str) -> ResponseFormat:
        """Take a template such as ``<think> {reasoning} </think> {answer}`` apart.

        Raises:
            InputErrors: a placeholder is missing, repeated or out of order, or nothing stands between the
                two.
        """
        reasons = "{reasoning}" in template
        opening, _, rest = template.partition("{reasoning}") if reasons else ("", "", template)
        closing, found, ending = rest.partition("{answer}")
        literals = opening + closing + ending
        problem = None
        if not found or "{reasoning}" in literals or "{answer}" in literals:
            problem = "must contain {answer} once, and {reasoning} at most once and before it"
        elif reasons and not closing.strip():
            problem = "must have text between {reasoning} and {answer}, because the end of the reasoning is found by it"
        elif not reasons and literals.strip():
            problem = "has text around {answer} but no {reasoning}"
        if problem:
            raise InputErrors("reasoning_template", [f"{problem}; received {template!r}"])
        return cls(opening, closing, ending, reasons)

    def fill(self, answer: str, reasoning: str | None) -> Response:
        """The response text: the template filled, or the plain answer where there is no reasoning.

        Raises:
            DataError: a part is blank, or there is reasoning and no place for it.
        """
        if not answer.strip():
            raise DataError("the answer is empty; every response needs one")
        if reasoning is None:
            return Response(answer, _inner(answer, 0))
        if not self.reasons:
            raise DataError(
                "the row has reasoning, but reasoning_template does not contain {reasoning}; add it to the template or remove the reasoning"
            )
        if not reasoning.strip():
            raise DataError("the reasoning is blank; remove the key")
        thought = _inner(reasoning, len(self.opening))
        after_reasoning = len(self.opening) + len(reasoning)
        said = _inner(answer, after_reasoning + len(self.closing))
        after_answer = after_reasoning + len(self.closing) + len(answer)
        text = f"{self.opening}{reasoning}{self.closing}{answer}{self.ending}"
        literals = ((self.opening, 0), (self.closing, after_reasoning), (self.ending, after_answer))
        tags = tuple(_inner(literal, start) for literal, start in literals if literal.strip())
        return Response(text, said, thought, tags)

    def said(self, answer: str, reasoning: str | None = None) -> str:
        """The text of an earlier turn, which may have been cut short: a blank part is left out."""
        reasoning = reasoning if reasoning and reasoning.strip() else None
        if answer.strip():
            return self.fill(answer, reasoning).text
        return "" if reasoning is None else f"{self.opening}{reasoning}"

    def continued(self, response: Response, prefix: str) -> Response:
        """The rest of a response after the prefill ``prefix``.

        Where the response begins with the prefix, its rest; otherwise the prefix stands in for the beginning:
        an opened tag is not opened again, a reasoning that the prefix has closed is not given again, and one
        that it has opened is closed before an answer without reasoning.
        """
        if prefix and response.text.startswith(prefix):
            rest = response.after(len(prefix))
        elif response.reasoning is None:
            rest = self._closed(response) if self.opened_by(prefix) else response
        elif self.closing.strip() in prefix:
            rest = response.after(response.answer.start)
        elif self.opening.strip() and self.opening.strip() in prefix:
            thought = prefix.partition(self.opening.strip())[2].strip()
            known = bool(thought) and response.text.startswith(thought, response.reasoning.start)
            kept = response.reasoning.start + len(thought) if known else len(self.opening.rstrip())
            rest = response.after(kept)
        else:
            rest = response
        blank = len(rest.text) - len(rest.text.lstrip())
        return rest.after(blank) if prefix[-1:].isspace() else rest

    def _closed(self, response: Response) -> Response:
        """An answer without reasoning, after the delimiter that ends the reasoning."""
        before, after = len(self.closing), len(self.closing) + len(response.text)
        tags = tuple(
            _inner(tag, start) for tag, start in ((self.closing, 0), (self.ending, after)) if tag.strip()
        )
        answer = Span(response.answer.start + before, response.answer.stop + before)
        return Response(f"{self.closing}{response.text}{self.ending}", answer, None, tags)

    def tags_in(self, beginning: str) -> str:
        """The part of the reasoning that is already in the prompt: from its opening on, or nothing."""
        opening = self.opening.strip()
        return beginning[beginning.index(opening) :] if opening and opening in beginning else ""

    def opened_by(self, beginning: str) -> bool:
        """Whether the prefill in the model's turn opens a reasoning and does not close it."""
        if not self.reasons or self.closing.strip() in beginning:
            return False
        return self.opening.strip() in beginning


def token_span(
    offsets: Sequence[tuple[int, int]], characters: Span, tags: Sequence[Span], first: int
) -> Span | None:
    """The columns of the tokens that overlap a range of characters, without those that reach into a tag.

    Args:
        offsets: (start, stop) characters of every token of the response.
        characters: the range to cover.
        tags: ranges of the delimiters.
        first: column of the response's first token.

    Returns:
        The smallest range that holds them all, or None where there is no such token.
    """
    inside = [
        column
        for column, (start, stop) in enumerate(offsets, first)
        if start < stop
        and _overlap(start, stop, characters)
        and not any(_overlap(start, stop, tag) for tag in tags)
    ]
    return Span(inside[0], inside[-1] + 1) if inside else None


def _overlap(start: int, stop: int, characters: Span) -> bool:
    return start < characters.stop and stop > characters.start


def _inner(text: str, start: int) -> Span:
    """Where ``text`` without white space at either end stands, if ``text`` begins at character ``start``."""
    left = len(text) - len(text.lstrip())
    return Span(start + left, start + len(text.rstrip()))
