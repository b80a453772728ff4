"""What a recipe says beside its base, its rows and its methods, for who calls the library without one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field, field_validator

from exporter.recipe_bounds import Strict
from exporter.types import Row


class Settings(Strict):
    """How rows are put to a model and what counts as a refusal; the defaults are a recipe's."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of everything that is drawn."""
    calibrate_fraction: float = Field(default=0.3, gt=0.0, lt=1.0)
    """Of the rows to fit on, set aside where no rows to calibrate on are given: whole wordings (rows with one ``template_id``) by role."""
    system: str | None = None
    """A system prompt put before every conversation."""
    reasoning_template: str | None = None
    """What the model writes when it reasons. None: ``<think> {reasoning} </think> {answer}`` where any of the rows reasons, else ``{answer}``."""
    max_new_tokens: int = Field(default=64, gt=0)
    """Length of replies, in tokens."""
    batch_size: int = Field(default=32, gt=0)
    """Prompts that are put to the model at once."""
    accepted: tuple[str, ...] = ()
    """Replies that are fluent refusals, word for word."""
    patterns: tuple[str, ...] = ()
    """Regular expressions for whole replies that are refusals."""

    @field_validator("patterns")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                empty = re.fullmatch(pattern, "")
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
            if empty:
                raise ValueError(f"{pattern!r} matches an empty reply, which is not a refusal")
        return patterns

    def template_for(self, rows: Sequence[Row]) -> str:
        """The reasoning template for a model that is asked these rows."""
        return template_of(rows) if self.reasoning_template is None else self.reasoning_template


def template_of(rows: Sequence[Row]) -> str:
    """A model whose rows say nothing of what is thought is taken for one that does not reason."""
    return "<think> {reasoning} </think> {answer}" if any(row.reasoning for row in rows) else "{answer}"
