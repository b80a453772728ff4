"""A weight edit: what a method that changes weights finds, as a LoRA adapter of the base in peft's own format.

Where the weights of a linear layer are W, the edited layer computes with W + scaling · B A (https://arxiv.org/abs/2106.09685). On disk an
edit is the folder that peft reads (``adapter_config.json``, ``adapter_model.safetensors``) and a manifest beside it that says which base,
method, seed and rows it is of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import JsonValue
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from exporter.artifact import Given, Manifest
from exporter.atomic import write_bytes, write_json
from exporter.digests import digest_of_bytes
from exporter.errors import VerificationError
from exporter.model_folder import read_object
from steer_modules.program import BaseModelRef

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_TENSORS = "adapter_model.safetensors"


class EditedBase(Given):
    """The model that an edit belongs to; earlier versions did not write the last two keys."""

    architecture: str
    model_type: str
    fingerprint: str
    """Of its weights (docs/format.md)."""
    weights_sha256: str | None = None
    """Hex SHA-256 over all of its weights."""
    settings: dict[str, JsonValue] | None = None
    """Of its config.json: what it computes with."""

    @property
    def shown(self) -> dict[str, object]:
        """The same without the settings, for readers: config.json has them."""
        return {key: value for key, value in self.data().items() if key != "settings"}


class EditManifest(Manifest, Given):
    """``weight_edit.json``: what an adapter was made by, from and for."""

    FILE = "weight_edit.json"
    REMEDY = "fit it again, or fetch the folder again"

    format: Literal["steerbake-edit/1"]
    method: str
    seed: int
    rows: str
    """Digest of the rows that it was fitted on."""
    base: EditedBase
    files: dict[str, str]
    """Hex SHA-256 by name."""

    @property
    def shown(self) -> dict[str, object]:
        """The content for readers, without the settings of the base."""
        return {**self.data(), "base": self.base.shown}

    @property
    def digests(self) -> Mapping[str, str]:
        return self.files


@dataclass(frozen=True)
class WeightEdit:
    """A LoRA adapter and what it was made from.

    Attributes:
        base: the model that it edits; ``fingerprint`` is None until the files of the base are known.
        weights, settings: digest of all weights of the base, and its settings (:class:`EditedBase`); None where they are not known.
        rows: digest of the rows that it was fitted on.
        config: content of ``adapter_config.json``.
        tensors: the matrices A [r, in] and B [out, r] by peft's names.
    """

    method: str
    base: BaseModelRef
    seed: int
    rows: str
    config: Mapping[str, object]
    tensors: Mapping[str, Tensor]
    weights: str | None = None
    settings: Mapping[str, object] | None = None

    def bound_to(self, base: EditedBase) -> WeightEdit:
        """The same, of a base whose files are known.

        Raises:
            ValueError: it is not the base of the edit.
        """
        if (base.architecture, base.model_type) != (self.base.architecture, self.base.model_type):
            raise ValueError(f"the edit is of a {self.base.architecture}, not of a {base.architecture}")
        of = self.with_fingerprint(base.fingerprint)
        return replace(of, weights=base.weights_sha256, settings=base.settings)

    @property
    def edited_base(self) -> EditedBase:
        """The base as the manifest names it; raises ValueError where its fingerprint is not known."""
        if self.base.fingerprint is None:
            raise ValueError("the fingerprint of the base is not known")
        noted = {"weights_sha256": self.weights, "settings": self.settings}
        return EditedBase.model_validate(
            {**self.base.section(), **{key: value for key, value in noted.items() if value is not None}}
        )

    def with_fingerprint(self, fingerprint: str) -> WeightEdit:
        """The same of a base whose weights have this fingerprint."""
        return replace(self, base=replace(self.base, fingerprint=fingerprint))

    @property
    def sha256(self) -> str:
        """Hex SHA-256 over the manifest, which has the digests of the files."""
        return digest_of_bytes(json.dumps(self.manifest().data(), sort_keys=True).encode())

    def save(self, folder: Path) -> None:
        """Writes the three files into an existing folder.

        Raises:
            ValueError: the fingerprint of the base is not known.
        """
        self.save_adapter(folder)
        write_json(folder / EditManifest.FILE, self.manifest().data())

    def save_adapter(self, folder: Path) -> None:
        """Writes what peft reads alone, without the manifest."""
        for name, content in self._files().items():
            write_bytes(folder / name, content)

    @classmethod
    def load(cls, folder: Path) -> WeightEdit:
        """Reads what :meth:`save` wrote.

        Raises:
            VerificationError: a file is missing, was changed, or is not understood.
        """
        try:
            manifest = EditManifest.load(folder)
        except FileNotFoundError as error:
            raise VerificationError(f"{folder} contains no {EditManifest.FILE}") from error
        manifest.check_files(folder)
        missing = {ADAPTER_CONFIG, ADAPTER_TENSORS} - set(manifest.files)
        if missing:
            raise VerificationError(f"{folder / EditManifest.FILE} does not list {min(missing)}")
        try:
            tensors = load_file(folder / ADAPTER_TENSORS)
        except (SafetensorError, OSError) as error:
            raise VerificationError(f"{folder / ADAPTER_TENSORS} cannot be read: {error}") from error
        config = read_object(folder / ADAPTER_CONFIG, strict=False)
        base = manifest.base
        of = BaseModelRef(base.architecture, base.model_type, base.fingerprint)
        noted = (base.weights_sha256, base.settings)
        return cls(manifest.method, of, manifest.seed, manifest.rows, config, tensors, *noted)

    def _files(self) -> dict[str, bytes]:
        plain = {
            name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in self.tensors.items()
        }
        config = json.dumps(dict(self.config), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        # With the format, as peft writes it: Transformers refuses files without it.
        return {ADAPTER_CONFIG: config.encode(), ADAPTER_TENSORS: save(plain, metadata={"format": "pt"})}

    def manifest(self) -> EditManifest:
        """What stands beside the adapter; raises ValueError where the fingerprint of the base is not known."""
        return EditManifest(
            format="steerbake-edit/1",
            method=self.method,
            seed=self.seed,
            rows=self.rows,
            base=self.edited_base,
            files={name: digest_of_bytes(content) for name, content in self._files().items()},
        )
