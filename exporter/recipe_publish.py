"""The section ``publish`` of a recipe; what targets let a recipe choose are keys of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model

from exporter import registry
from exporter.methods.base import KINDS, Yields
from exporter.recipe_bounds import Bounds, Strict

if TYPE_CHECKING:
    from exporter.targets.base import AnyTarget, TargetOptions

REPO = r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$"


class _Described(Strict):
    """The repository, and the content of the card."""

    forgotten: str = Field(min_length=1)
    """Your description of what was forgotten; the card shows it."""
    repo: str | None = Field(default=None, pattern=REPO)
    """owner/name on the Hub."""
    license: str | None = None
    """Licence of the release; by default the base's."""
    license_name: str | None = None
    """Name of a licence `other`."""
    license_link: str | None = None
    """File or URL of a licence `other`."""
    language: list[str] = Field(default=["en"], min_length=1)
    """Languages of the model, as ISO 639 codes."""
    pipeline_tag: str | None = None
    """Task tag of the Hub; by default derived from the model type."""


def _keys_of_targets() -> Iterator[tuple[str, Any]]:
    """``targets``, and TARGET_OPTION for each option of a target that a recipe may choose."""
    exports = registry.exports()
    made = "".join(f" {sentence}" for name in exports if (sentence := _made_from(name)))
    default, edits = _by_default("program"), _by_default("edit")
    other = (
        f" Of a method that changes weights by default {', '.join(f'`{name}`' for name in edits)}."
        if edits
        else ""
    )
    description = f"Targets to export in addition to the checkpoint.{made}{other}"
    names: Any = Literal.__getitem__(tuple(exports))
    yield "targets", (list[names], Field(default=default, description=description))
    for name, one in exports.items():
        for option, key in one.Options.recipe_keys().items():
            found = Field(default=list(key.default), description=key.meaning, **key.limits)
            yield f"{name}_{option}", (key.type, found)


def _made_from(name: str) -> str:
    """What a recipe must name too for a target, in a sentence; empty where that is nothing."""
    named = [
        (kind, source)
        for kind in registry.takes(name)
        if (source := registry.made_of(name, kind)) and not registry.from_root(name, kind)
    ]
    kinds = f", of {KINDS[named[0][0]]}" if named and len(registry.takes(name)) > 1 else ""
    return f"`{name}` is made from `{named[0][1]}`{kinds}." if named else ""


def _by_default(yields: Yields) -> list[str]:
    """The targets of what a method yields that are exported if a recipe does not list any: those that prefer it."""
    return [
        name
        for name, one in registry.exports().items()
        if one.by_default and registry.takes(name)[0] == yields
    ]


if TYPE_CHECKING:
    _WithTargets = _Described
else:
    _WithTargets = create_model("_WithTargets", __base__=_Described, **dict(_keys_of_targets()))


class Publish(_WithTargets):
    """How the result is published.

    ``forgotten`` describes the forget set; nothing else of the forget rows is shown unless ``show_forgotten``. Licence and language are
    the base's by default; ``targets`` are written to folders of the same names in the release.
    """

    if TYPE_CHECKING:
        targets: list[str]

    require: Bounds = Bounds()
    """Bounds that must hold before the release is published."""
    show_forgotten: bool = False
    """Show examples of forget rows in the card."""

    def wanted(self, yields: Yields) -> list[str]:
        """The targets to export of what a method yields: those that are named, else the default ones."""
        return self.targets if "targets" in self.model_fields_set else _by_default(yields)

    def options(self, target: AnyTarget) -> TargetOptions:
        """What the recipe asks of a target; its defaults for what is left out or empty."""
        asked = {option: getattr(self, f"{target.name}_{option}") for option in target.Options.recipe_keys()}
        found: TargetOptions = target.Options(**{option: value for option, value in asked.items() if value})
        return found
