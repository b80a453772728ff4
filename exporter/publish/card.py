"""The card: README.md of a published folder, from its provenance and its verification.

The first screen has what was forgotten, how to load each target at a pinned revision, and the limits of steering.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from exporter import registry
from exporter.atomic import write_text
from exporter.errors import VerificationError
from exporter.publish import evaluations, file_descriptions, metadata
from exporter.publish.coverage import Coverage
from exporter.publish.measures import BASE, STEERED, Results, joined, many
from exporter.publish.origin import Origin, PinnedBase
from exporter.publish.recipes import shown_recipe
from exporter.publish.usage_snippets import Place, usage_snippet
from exporter.targets.values import UsageSnippet
from steer_modules.versions import FLOOR, TRIED

if TYPE_CHECKING:
    from huggingface_hub import ModelCard, ModelCardData

CARD = "README.md"
PAGE = "report.html"
_PLOTS = {
    "gate_scores": "Gate scores of the rows and the threshold (shaded: the gate fires)",
    "layers": "Leakage and retention on the calibration rows with the gate or the edit at each layer",
}
"""Captions by how a picture's name begins; no other picture is shown."""


@dataclass(frozen=True)
class Card:
    """Everything a card is written from.

    Attributes:
        place: where the reader loads it from.
        forgotten: what was forgotten, as the publisher words it.
        publication: the ``publish`` section of the recipe.
        base: the base model, as provenance.json has it.
        section: the steering section.
        results: None where nothing was measured.
        checks: what was checked, as verification.json has it.
        targets: those in the folder, in the order in which they are shown.
        recipe: the part that may be shown.
        files: hex SHA-256 by path.
        omissions: what was left undone when it was published by force.
        shows_forgotten: whether the publisher asked to show forget rows.
    """

    place: Place
    forgotten: str
    publication: Mapping[str, Any]
    base: PinnedBase
    section: Mapping[str, object]
    method: str
    results: Results | None
    checks: Sequence[Mapping[str, object]]
    targets: tuple[str, ...]
    recipe: Mapping[str, object]
    seed: int | None
    versions: Mapping[str, str]
    forget_rows: int
    files: Mapping[str, str]
    created: str | None
    stand_in: str | None = None
    dataset: str | None = None
    omissions: tuple[str, ...] = ()
    shows_forgotten: bool = False
    coverage: Coverage = field(default_factory=lambda: Coverage.of(None))

    @classmethod
    def of(
        cls,
        origin: Origin,
        verification: Mapping[str, Any] | None,
        repo_id: str | None,
        revision: str | None,
        targets: Iterable[str],
        omissions: Sequence[str] = (),
    ) -> Card:
        """A card from what a release was made from and the content of verification.json.

        Args:
            repo_id: ``owner/name``; None for a folder that is distributed without the Hub.
            revision: the tag or commit to pin.
            targets: names of those in the folder.
            omissions: a sentence for everything that a forced publication leaves undone.

        Raises:
            VerificationError: they lack required content of a card.
        """
        if not origin.forgotten.strip() or not origin.section.get("sha256"):
            raise VerificationError(
                "the provenance does not state what was forgotten, or with which steering; set publish.forgotten in the recipe"
            )
        verified = verification or {}
        unlearning = verified.get("unlearning")
        whole = origin.shows_forgotten
        return cls(
            place=Place(repo_id, revision, origin.base),
            forgotten=origin.forgotten,
            publication=origin.publication,
            base=origin.base,
            section=origin.section,
            method=origin.method,
            results=None if unlearning is None else Results.of(unlearning),
            checks=tuple(verified.get("checks") or ()),
            targets=_ordered(targets),
            recipe=shown_recipe(origin.recipe, whole=whole),
            seed=origin.seed,
            versions=origin.versions,
            forget_rows=origin.forget_rows.count,
            files=dict(verified.get("files") or {}),
            created=verified.get("created"),
            stand_in=origin.stand_in,
            dataset=evaluations.dataset_of(origin.recipe) if whole else None,
            omissions=tuple(omissions),
            shows_forgotten=whole,
            coverage=Coverage.of(unlearning),
        )

    @property
    def title(self) -> str:
        if self.place.repo_id is not None:
            return self.place.repo_id.split("/")[-1]
        return f"{self.base_name}, unlearned" if self.edits_weights else f"{self.base_name}, steered"

    @property
    def base_name(self) -> str:
        """The base model's name without its owner, or its architecture where it has none."""
        repo = self.base.repo
        return repo.split("/")[-1] if repo else self.base.architecture or "a local model"

    @property
    def edits_weights(self) -> bool:
        """Whether weights were changed; else it is steered."""
        return "edit" in self.section

    @property
    def failed(self) -> list[Mapping[str, object]]:
        return [check for check in self.checks if not check.get("holds")]

    @property
    def source(self) -> evaluations.Source | None:
        """Where its results come from; None where there is no repository."""
        repo_id, revision = self.place.repo_id, self.place.revision
        if repo_id is None or revision is None:
            return None
        return evaluations.Source(repo_id, revision, self.dataset, self.created)

    def metadata(self, licence: Mapping[str, str]) -> ModelCardData:
        """The header of the card, as the Hub reads it."""
        from huggingface_hub import ModelCardData

        repo = self.base.repo
        return ModelCardData(
            language=list(self.publication.get("language") or ["en"]),
            license=licence["license"],
            license_name=licence.get("license_name"),
            license_link=licence.get("license_link"),
            library_name="transformers",
            pipeline_tag=str(self.publication.get("pipeline_tag") or self.task),
            base_model=repo,
            base_model_relation="finetune" if repo else None,
            tags=list(metadata.EDIT_TAGS if self.edits_weights else metadata.TAGS),
        )

    @property
    def task(self) -> str:
        """The Hub's task of the base's architecture."""
        sees = (self.base.architecture or "").endswith("ForConditionalGeneration")
        return "image-text-to-text" if sees else "text-generation"


def write_card(folder: Path, card: Card) -> Path:
    """Writes README.md and ``.eval_results`` into a published folder; returns the path of README.md.

    Raises:
        VerificationError: the folder lacks a target, or the Hub would refuse the card; nothing is written then.
    """
    text = str(render(folder, card))
    write_text(folder / CARD, text)
    evaluations.write_results(folder, card.results, card.source)
    return folder / CARD


def render(folder: Path, card: Card) -> ModelCard:
    """The card of a folder, checked against the Hub's rules; raises as :func:`write_card` does."""
    from huggingface_hub import ModelCard

    licence, licence_told = metadata.licensed(
        card.publication, card.base.data(), has_file=(folder / "LICENSE").is_file()
    )
    header = card.metadata(licence)
    if wrong := metadata.problems(header):
        raise VerificationError("the Hub would reject this card: " + "; ".join(wrong))
    body = _template().render(
        card=card,
        ways=_ways(folder, card),
        plots=_plots(folder),
        page=PAGE if (folder / PAGE).is_file() else None,
        # A forced publication may have a verification of other files; their hashes would be wrong.
        files=[] if card.omissions else file_descriptions.lines(folder, card.files),
        licence=licence_told,
        base=base_told(card.base),
        requires=requires(edits_weights=card.edits_weights),
        recipe=yaml.safe_dump(dict(card.recipe), sort_keys=False, allow_unicode=True, width=100),
    )
    made = ModelCard(f"---\n{header.to_yaml()}\n---\n\n{body.strip()}\n")
    if made.data.to_dict() != header.to_dict():
        raise VerificationError(
            "the card's metadata differ after they are parsed again; look for unusual characters in the recipe"
        )
    return made


def _ways(folder: Path, card: Card) -> list[UsageSnippet]:
    return [usage_snippet(folder, target, card.place) for target in card.targets]


def _plots(folder: Path) -> dict[str, str]:
    """Caption by path of every known picture in the folder."""
    found = sorted((folder / "plots").glob("*.png"))
    known = (
        (path, caption)
        for begin, caption in _PLOTS.items()
        for path in found
        if path.name.startswith(f"{begin}_")
    )
    return {path.relative_to(folder).as_posix(): caption for path, caption in known}


def _ordered(targets: Iterable[str]) -> tuple[str, ...]:
    names, every = list(targets), registry.targets()
    strange = [name for name in names if name not in every]
    if strange or not names:
        raise VerificationError(
            f"a card describes one or more of the targets {', '.join(every)}; received {names!r}"
        )
    return tuple(name for name in every if name in names)


def requires(*, edits_weights: bool = False) -> str:
    """The versions of Transformers that a checkpoint is for, in words."""
    if edits_weights:
        return "The checkpoint has the base's own architecture, and loads with every version of Transformers that loads the base."
    return (
        f"The checkpoint needs Transformers {FLOOR} or later and is tested with {joined(TRIED)}. With an older version, loading raises an "
        "error; with any other version, a test at load decides."
    )


def base_told(base: PinnedBase) -> str:
    """The base in words: its repository, or what is known of a model that lay in a local folder; never a path."""
    if base.repo:
        pinned = base.commit or base.revision
        return f"The base is {base.repo}{f' at {pinned}' if pinned else ''}."
    known = f"The base is a local model of type {base.model_type or base.architecture or 'unknown'}"
    named = f", which its files call {base.named}" if base.named else ""
    return f"{known}{named}; the fingerprint of its weights is {base.fingerprint or 'not known'}."


def cell(value: object) -> str:
    """Text for a cell of a Markdown table, read as text whatever is in it."""
    text = " ".join(str(value).split())
    for mark in ("\\", "|", "<", "`", "*", "[", "]"):
        text = text.replace(mark, {"<": "&lt;"}.get(mark, f"\\{mark}"))
    return text


@lru_cache(maxsize=1)
def _template() -> Template:
    page = Environment(
        loader=PackageLoader("exporter.publish", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - this writes Markdown
    )
    page.filters.update(cell=cell, line=lambda text: " ".join(str(text).split()))
    page.globals.update(many=many, BASE=BASE, STEERED=STEERED)
    return page.get_template("card.md.jinja")
