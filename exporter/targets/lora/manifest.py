"""``lora.json``: of which steered checkpoint an adapter is the pupil, and how far it lies from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from exporter.artifact import Given, Manifest, Strict
from exporter.weight_edit import ADAPTER_CONFIG, ADAPTER_TENSORS, EditedBase


class Teacher(Strict):
    """The steered checkpoint that was learned from."""

    method: str
    sha256: str
    """Of its signed section."""


class Fidelity(Strict):
    """KL(steered checkpoint || adapter) in nats a token of the reply, on calibration conversations that were not trained on."""

    forget: float
    """Where a gate is on."""
    forget_rows: int
    kept: float
    """Where none is."""
    kept_rows: int
    forget_same: float | None = None
    """Share of these replies that are the checkpoint's, token for token; earlier versions did not write it."""
    kept_same: float | None = None


class LoraManifest(Manifest, Given):
    """What a distilled adapter was made from."""

    FILE = "lora.json"
    REMEDY = "export it again, or fetch the folder again"

    format: Literal["steerbake-lora/1"]
    teacher: Teacher
    base: EditedBase
    rank: int
    seed: int
    rows: str
    """Digest of the rows whose conversations it was trained on."""
    conversations: int
    form: str = "trained"
    """``switched``: neurons of the last block that are off on what is kept; ``trained``: all linear layers."""
    settings: dict[str, Any]
    fidelity: Fidelity
    files: dict[str, str]
    """Hex SHA-256 by name."""

    @model_validator(mode="after")
    def _has_adapter(self) -> LoraManifest:
        if missing := {ADAPTER_CONFIG, ADAPTER_TENSORS} - set(self.files):
            raise ValueError(f"files does not list {min(missing)}")
        return self

    @property
    def digests(self) -> Mapping[str, str]:
        return self.files
