"""stock.json: what a stock checkpoint says of itself."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from pydantic import JsonValue

from exporter.artifact import Manifest, Strict

STOCK_JSON = "stock.json"
FORMAT: Final = "steerbake-stock/1"


class Source(Strict):
    """The steered checkpoint that it was made from.

    Attributes:
        sha256: hex, of its section.
        fingerprint: of its base's weights.
        settings: of its base's config; None in folders of earlier versions, which did not note them.
    """

    sha256: str
    fingerprint: str | None
    method: str
    settings: dict[str, JsonValue] | None = None

    @property
    def origin(self) -> dict[str, object]:
        """The same as the section of that checkpoint has it."""
        return {"sha256": self.sha256, "base": {"fingerprint": self.fingerprint, "settings": self.settings}}


class Held(Strict):
    """Where the gate classifier fires on calibration conversations that it was not solved on; fractions of conversations."""

    recall: float
    alarms: float
    by_kind: dict[str, dict[str, float]]


class GateShown(Strict):
    """The gate classifier: the decoder layer whose states it reads, and of how many half-spaces it is."""

    layer: int
    half_spaces: int
    held: Held


class EditShown(Strict):
    """How far the written edit is from the exact one, and how often it finds the row of its table."""

    error: float
    row_found: float
    norm_ratio: list[float]


class Bound(Strict):
    """One bound that was checked before the folder was written."""

    name: str
    measured: float
    bound: float
    at_least: bool
    fix: str
    holds: bool

    @property
    def is_held(self) -> bool:
        """Found anew from the numbers."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


class Compared(Strict):
    """The written model beside base and steered checkpoint (:class:`exporter.targets.stock.control.Comparison`)."""

    kept: int
    fired: int
    twin_identical: float
    logits_identical: float
    tokens_identical: float
    steered: float
    exact_tokens: float
    divergence: float


class StockManifest(Manifest):
    """The content of stock.json; see docs/stock.md.

    Attributes:
        layers: 0-based places of the inserted layers.
        files: hex SHA-256 by name of every other file of the folder.
    """

    FILE = STOCK_JSON
    REMEDY = "export the stock target again"
    INDENT: ClassVar[int] = 2

    format: Literal["steerbake-stock/1"] = FORMAT
    layers: list[int]
    checkpoint: Source
    gate: GateShown
    edit: EditShown
    checks: list[Bound]
    compared: Compared
    files: dict[str, str]

    @property
    def digests(self) -> dict[str, str]:
        return self.files
