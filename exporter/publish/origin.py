"""What a release was made from: the content of provenance.json without its seal."""

from __future__ import annotations

from pydantic import Field, JsonValue

from exporter.artifact import Strict


class AdapterRecord(Strict):
    """An adapter that is merged into the base: its repository (None for a local folder) and hex SHA-256 of its files by name."""

    repo: str | None
    files: dict[str, str]


class PinnedBase(Strict):
    """The base: where it is from, its licence, and hex SHA-256 of every shard under the name that it has in the release.

    Attributes:
        named: the repository that a local base's own config names.
        license_files: names of files beside the base that state its terms.
    """

    repo: str | None = None
    revision: str | None = None
    commit: str | None = None
    adapters: tuple[AdapterRecord, ...] = ()
    fingerprint: str | None = None
    architecture: str | None = None
    model_type: str | None = None
    named: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    license_files: tuple[str, ...] = ()
    shards: dict[str, str] = Field(default_factory=dict)


class ForgetRows(Strict):
    """How many different rows were to be forgotten, and their hashes (:func:`exporter.publish.provenance.salted`)."""

    count: int
    hmac_sha256: list[str]


class LeftOut(Strict):
    """Files of the base that were not taken along: those that may be named, and the number of others."""

    files: list[str]
    not_named: int


class ProofRecord(Strict):
    """Which laws a tiny twin of the base kept, each in words, and under which Transformers."""

    transformers: str
    laws: dict[str, str]


class Origin(Strict):
    """What a release was made from.

    Attributes:
        publication: the section ``publish`` of the recipe, as the version that it was published by wrote it; another may know other keys.
        recipe: the part that may be shown.
        section: the signed steering section.
        omissions: what a publication by force left undone, one sentence each.
    """

    publication: dict[str, JsonValue]
    recipe: dict[str, JsonValue]
    recipe_name: str
    versions: dict[str, str]
    proof: ProofRecord | None = None
    seed: int | None = None
    method: str
    section: dict[str, JsonValue]
    base: PinnedBase
    forget_rows: ForgetRows
    left_out: LeftOut | None = None
    omissions: tuple[str, ...] = ()

    @property
    def forgotten(self) -> str:
        """What was forgotten, as the publisher words it; empty where that is not said."""
        return str(self.publication.get("forgotten") or "")

    @property
    def shows_forgotten(self) -> bool:
        """Whether the publisher asked to show forget rows: the JSON value true, and nothing that is merely like it."""
        return self.publication.get("show_forgotten") is True

    @property
    def stand_in(self) -> str | None:
        """What the recipe says that its result stands in for."""
        told = self.recipe.get("stand_in")
        return None if told is None else str(told)
