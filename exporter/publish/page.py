"""report.html: what a published model forgets and keeps, for people who look rather than read. One file that asks for nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from exporter.atomic import write_text
from exporter.errors import VerificationError
from exporter.publish import file_descriptions
from exporter.publish.histogram import GateView
from exporter.publish.measures import BASE, STEERED, Results, many
from exporter.targets.values import UsageSnippet


@dataclass(frozen=True)
class Completion:
    """A reply, taken apart. ``reasoning`` is None where it has none."""

    reasoning: str | None
    answer: str


@dataclass(frozen=True)
class Exchange:
    """One question with both models' replies.

    Attributes:
        picture: a ``data:`` address; None where nothing is shown.
        same: whether the replies are token for token the same.
        fired: whether a gate fired in the steered model.
    """

    question: str
    picture: str | None
    base: Completion
    steered: Completion
    same: bool
    fired: bool


@dataclass(frozen=True)
class Example:
    """A conversation that both models had."""

    kind: Literal["Forgotten", "Kept", "Reasoning", "Unknown subject"]
    exchanges: tuple[Exchange, ...]


@dataclass(frozen=True)
class Refusal:
    """What the steered model says instead, in so many replies to what it is to forget."""

    text: str
    count: int


@dataclass(frozen=True)
class Page:
    """Everything the page is written from.

    Attributes:
        forgotten: what was forgotten, in the publisher's words.
        base: the base model, in words.
        gates: none where the method has none, or none with a score for each prompt.
        examples: conversations that may be shown.
        shows_forgotten: whether the publisher asked to show forget rows.
        refusals: the most frequent first; of ``refused`` rows in all.
        checks: as verification.json has them.
        section: the steering section.
        told: what the base is, in a sentence; requires: the versions it loads on; licence: on which terms.
        ways: how each target is loaded.
        coverage: a sentence for every way to ask, measured or not.
    """

    title: str
    forgotten: str
    base: str
    section: Mapping[str, object]
    method: str
    results: Results | None
    gates: tuple[GateView, ...]
    examples: tuple[Example, ...]
    refusals: tuple[Refusal, ...]
    refused: int
    checks: Sequence[Mapping[str, object]]
    files: tuple[file_descriptions.FileLine, ...]
    versions: Mapping[str, str]
    created: str | None
    stand_in: str | None = None
    shows_forgotten: bool = False
    told: str = ""
    requires: str = ""
    licence: str = ""
    ways: tuple[UsageSnippet, ...] = ()
    coverage: tuple[str, ...] = ()

    @property
    def edits_weights(self) -> bool:
        """Whether weights were changed; else it is steered."""
        return "edit" in self.section

    @property
    def failed(self) -> list[Mapping[str, object]]:
        return [check for check in self.checks if not check.get("holds")]

    @property
    def groups(self) -> list[tuple[str, list[file_descriptions.FileLine]]]:
        """The files by what loads them."""
        found: dict[str, list[file_descriptions.FileLine]] = {}
        for line in self.files:
            found.setdefault(line.group, []).append(line)
        return list(found.items())

    @property
    def kinds(self) -> list[tuple[str, list[Example]]]:
        """The examples by kind."""
        found: dict[str, list[Example]] = {}
        for example in self.examples:
            found.setdefault(example.kind, []).append(example)
        return list(found.items())


def write_page(path: Path, page: Page) -> Path:
    """Writes the page, whole or not at all; returns ``path``.

    Raises:
        VerificationError: a picture is not in the page itself.
    """
    pictures = [exchange.picture for example in page.examples for exchange in example.exchanges]
    if any(picture is not None and not picture.startswith("data:image/") for picture in pictures):
        raise VerificationError("a page embeds its pictures; give each as a data:image URL")
    write_text(path, render(page))
    return path


def render(page: Page) -> str:
    """The page as HTML; every text in it is escaped."""
    return _template().render(page=page) + "\n"


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("exporter.publish", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    environment.globals.update(many=many, BASE=BASE, STEERED=STEERED)
    return environment.get_template("report.html.jinja")
