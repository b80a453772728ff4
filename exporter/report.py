"""report.json: what a run measured, of which models and by which rule, and what it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import (
    BeforeValidator,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from exporter.artifact import Artifact, Given
from exporter.atomic import write_json
from exporter.estimate import Estimate
from exporter.renamed import METRICS, UNLEARNING, with_current_names

PLACE = "the report"
SLICES = "eval_slices"


class Figure(Given):
    """A value counted over ``n`` rows, and the ends of its 95% interval: null is no bound; reports of before have no interval."""

    value: int | float
    n: int
    interval: list[int | float | None] = Field(default=[], min_length=2, max_length=2)

    @classmethod
    def of(cls, one: Estimate) -> Figure:
        """An estimate as files have it."""
        return cls.model_validate(one.as_dict())


class PassFigure(Given):
    """A mean over ``n`` reference replies, and the least value of one where the metric tells it."""

    value: int | float
    n: int
    least: int | float = 0.0


class HeldOut(Given):
    """A share of ``n`` rows that were held out in turn, in [low, high] with 95% confidence."""

    value: int | float
    n: int
    low: int | float
    high: int | float


def _current(figures: object) -> object:
    """Metrics by name, under today's names."""
    return with_current_names(figures, METRICS, PLACE) if isinstance(figures, dict) else figures


class Measures(Given, extra="allow"):
    """One model's metrics by name over plain questions, and under ``eval_slices`` over the rows of each slice.

    Names of the version before are read with a warning.
    """

    __pydantic_extra__: dict[str, Figure] = Field(init=False)
    eval_slices: dict[str, Annotated[dict[str, Figure], BeforeValidator(_current)]]

    @classmethod
    def of(cls, metrics: Mapping[str, Estimate], slices: Mapping[str, Mapping[str, Estimate]]) -> Measures:
        """The figures of one model."""
        plain = {name: Figure.of(one) for name, one in metrics.items()}
        by_slice = {
            slice_: {name: Figure.of(one) for name, one in some.items()} for slice_, some in slices.items()
        }
        return cls.model_validate({**plain, SLICES: by_slice})

    @property
    def metrics(self) -> dict[str, Figure]:
        """Those over plain questions."""
        return self.__pydantic_extra__

    @model_validator(mode="before")
    @classmethod
    def _current_names(cls, found: object) -> object:
        renamed = {**METRICS, **UNLEARNING}
        return with_current_names(found, renamed, PLACE) if isinstance(found, dict) else found

    @model_serializer(mode="wrap")
    def _slices_last(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        found: dict[str, object] = dump(self)
        return {**{name: one for name, one in found.items() if name != SLICES}, SLICES: found[SLICES]}


class CrossValidated(Given):
    """What the default method forgets of rows that it was not shown; ``leaked`` has the ids of those that leak."""

    folds: int
    leakage_either: HeldOut
    leaked: list[str]


class Rule(Given):
    """What counts as a fluent refusal: whole texts, regular expressions, and a sentence that says how they are used."""

    accepted: list[str]
    patterns: list[str]
    text: str


class Proven(Given):
    """The laws that a tiny twin of the base kept, by name, and under which Transformers; of a report without a proof, neither."""

    transformers: str = ""
    laws: dict[str, str] = Field(default={})


class Report(Artifact, Given):
    """The content of report.json; see docs/report.md.

    Attributes:
        default: the method whose checkpoint is the result.
        models: measures by model; ``base`` and every method.
        extraction: metrics of one pass over reference replies, by model.
        gates, edits: those of each method, as in its steering section.
        steering_sha256: hex SHA-256 of each method's steering section.
        weight_edits: of methods that change weights: what each edit was fitted on, and the digests of its files.
        recipe: as plain data.
    """

    FILE = "report.json"
    REMEDY = "run the recipe again"
    INDENT: ClassVar[int] = 2

    default: str
    max_new_tokens: int
    stand_in: str | None
    models: dict[str, Measures]
    too_few_rows: list[str] = Field(default=[])
    extraction: dict[str, dict[str, PassFigure]] = Field(default={})
    cross_validated: CrossValidated | None = None
    rule: Rule
    gates: dict[str, list[dict[str, JsonValue]]]
    edits: dict[str, list[dict[str, JsonValue]]]
    steering_sha256: dict[str, str]
    weight_edits: dict[str, dict[str, JsonValue]] = Field(default={})
    versions: dict[str, str]
    proof: Proven = Proven()
    recipe: dict[str, JsonValue]

    @classmethod
    def of(cls, content: Mapping[str, object]) -> Report:
        """A report from the content of its file, as a run returns it."""
        return cls.model_validate_json(json.dumps(content))

    def save(self, path: Path) -> None:
        """Writes it whole or not at all; a recipe and a metric may have numbers that are not finite."""
        write_json(path, self.data(), indent=self.INDENT, finite=False)
