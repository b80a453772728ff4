"""SteeringProgram: the result of a fitted method, and the format it is stored in (``steerbake/2``, docs/format.md).

A program is a section (JSON) and tensors (float32). Parsing is strict: a gate or edit that is not understood to the
last key would be a memory that is not forgotten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from safetensors.torch import load_file, save
from torch import Tensor

from .checks import ProgramError, check_program
from .schema import FORMAT, HELD, Section

STEERING_JSON = "steering.json"
STEERING_TENSORS = "steering.safetensors"

T = TypeVar("T")


def canonical_json(value: object) -> bytes:
    """Keys sorted, no spaces, UTF-8, numbers as json.dumps spells them (1 and 1.0 differ)."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def program_sha256(section: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over the section without its ``sha256``, then name, ``F32[shape]`` and bytes of every tensor."""
    digest = hashlib.sha256(canonical_json({k: v for k, v in section.items() if k != "sha256"}))
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        shape = ",".join(str(size) for size in tensor.shape)
        digest.update(f"{name}F32[{shape}]".encode())
        digest.update(tensor.numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class BaseModelRef:
    """The model a program was fitted on. ``fingerprint``: ``sha256:`` + hex, filled in by compile.

    ``settings``: HELD where a checkpoint of it must say with which settings it was compiled; None of a program of an earlier version.
    """

    architecture: str
    model_type: str
    fingerprint: str | None = None
    settings: str | None = None

    def section(self) -> Section:
        return _without_none(self.__dict__)


@dataclass(frozen=True)
class Gate:
    """Decides, column by column, from where on a sequence is about the forget set. Fields: docs/format.md."""

    name: str
    layer: int
    pool: str
    score: str
    threshold: float
    fires: str
    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def section(self) -> Section:
        return {k: v for k, v in self.__dict__.items() if k != "tensors"}


@dataclass(frozen=True)
class Edit:
    """Changes the output of one block where its gate, or one of its gates, is on. Fields: docs/format.md.

    None means: the key is absent (but for ``gate``, where it means always).
    """

    layer: int
    gate: str | tuple[str, ...] | None
    op: str
    positions: str
    strength: float | None = None
    target: str | None = None
    angle: str | None = None
    protect: str | None = None
    sign: str | None = None
    keep_norm: bool | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def section(self) -> Section:
        keys = {k: v for k, v in self.__dict__.items() if k != "tensors"}
        gate = keys.pop("gate")
        return {"gate": list(gate) if isinstance(gate, tuple) else gate, **_without_none(keys)}


@dataclass(frozen=True)
class Canary:
    """The model's output for a few tokens, to detect broken weights.

    Attributes:
        ids: a sequence without padding.
        gate: 1 where every gate is forced on, 0 where all are held off.
        argmax: the likeliest next token at the last ``len(argmax)`` columns.
    """

    ids: tuple[int, ...]
    gate: int
    argmax: tuple[int, ...]

    def section(self) -> Section:
        return {"ids": list(self.ids), "gate": self.gate, "argmax": list(self.argmax)}


@dataclass(frozen=True)
class SteeringProgram:
    """Gates and edits over the blocks of one decoder.

    Attributes:
        headers: token ids of the generation headers of the model's chat template.
        canary: recorded outputs of the model, tested when it is loaded with changed weights.

    Raises:
        ProgramError: on construction, naming everything that breaks the format.
    """

    method: str
    hidden_size: int
    num_layers: int
    base: BaseModelRef
    gates: tuple[Gate, ...]
    edits: tuple[Edit, ...]
    headers: tuple[tuple[int, ...], ...] = ()
    canary: tuple[Canary, ...] = ()

    def __post_init__(self) -> None:
        check_program(self.section(), self.tensors())

    def section(self) -> Section:
        """The JSON object, without ``sha256``."""
        section = {
            "format": FORMAT,
            "method": self.method,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "base": self.base.section(),
            "headers": [list(header) for header in self.headers],
            "gates": [gate.section() for gate in self.gates],
            "edits": [edit.section() for edit in self.edits],
        }
        return section | ({"canary": [one.section() for one in self.canary]} if self.canary else {})

    def signed_section(self) -> Section:
        """The JSON object with the ``sha256`` of itself and the tensors."""
        return {**self.section(), "sha256": self.sha256}

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its full name, ``steering.gates.NAME.TENSOR`` or ``steering.layers.I.TENSOR``."""
        named = {f"steering.gates.{g.name}.{n}": t for g in self.gates for n, t in g.tensors.items()}
        named.update({f"steering.layers.{e.layer}.{n}": t for e in self.edits for n, t in e.tensors.items()})
        return named

    @property
    def sha256(self) -> str:
        return program_sha256(self.section(), self.tensors())

    def with_fingerprint(self, fingerprint: str) -> SteeringProgram:
        """The same, of a base whose weights have this fingerprint and whose settings a checkpoint is held to."""
        return replace(self, base=replace(self.base, fingerprint=fingerprint, settings=HELD))

    def save(self, folder: str | Path) -> None:
        """Writes ``steering.json`` and ``steering.safetensors`` into an existing folder."""
        folder = Path(folder)
        text = json.dumps(self.signed_section(), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / STEERING_JSON).write_text(text + "\n", encoding="utf-8")
        save_tensors(self.tensors(), folder / STEERING_TENSORS)

    @classmethod
    def load(cls, folder: str | Path) -> SteeringProgram:
        """Reads what :meth:`save` wrote; raises ProgramError where either file is missing, altered or not understood."""
        folder = Path(folder)
        try:
            section = json.loads((folder / STEERING_JSON).read_text(encoding="utf-8"))
            tensors = load_file(folder / STEERING_TENSORS)
        except FileNotFoundError as error:
            raise ProgramError(
                [
                    f"{error.filename} is missing; a steering folder contains {STEERING_JSON} and {STEERING_TENSORS}"
                ]
            ) from error
        except Exception as error:
            raise ProgramError([f"{folder} cannot be read: {error}"]) from error
        return cls.parse(section, tensors)

    @classmethod
    def parse(cls, section: Section, tensors: Mapping[str, Tensor]) -> SteeringProgram:
        """Checks a signed section and its tensors and returns the program; raises ProgramError listing every fault."""
        check_program(section, tensors, signed=True)
        if section["sha256"] != program_sha256(section, tensors):
            raise ProgramError(
                ["sha256 does not match: the section or a tensor was changed after it was written"]
            )
        parts = split_tensors(tensors)
        return cls(
            method=section["method"],
            hidden_size=section["hidden_size"],
            num_layers=section["num_layers"],
            base=BaseModelRef(**section["base"]),
            gates=tuple(Gate(**g, tensors=parts.get(f"gates.{g['name']}", {})) for g in section["gates"]),
            edits=tuple(_edit(e, parts.get(f"layers.{e['layer']}", {})) for e in section["edits"]),
            headers=tuple(tuple(header) for header in section["headers"]),
            canary=tuple(
                Canary(tuple(one["ids"]), one["gate"], tuple(one["argmax"]))
                for one in section.get("canary", ())
            ),
        )


def _edit(keys: Section, tensors: Mapping[str, Tensor]) -> Edit:
    gate = keys["gate"]
    return Edit(**{**keys, "gate": tuple(gate) if isinstance(gate, list) else gate}, tensors=tensors)


def split_tensors(tensors: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """``steering.gates.topic.basis`` -> {"gates.topic": {"basis": ...}}."""
    parts: dict[str, dict[str, T]] = {}
    for name, tensor in tensors.items():
        owner, _, leaf = name.removeprefix("steering.").rpartition(".")
        parts.setdefault(owner, {})[leaf] = tensor
    return parts


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes float32 tensors as safetensors; the same tensors give the same bytes.

    Without metadata, so that every byte of the file is one that the sha256 or the loader vouches for.
    """
    plain = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    path.write_bytes(save(plain))  # the library's own writer makes files that their owner alone may read


def _without_none(keys: Section) -> Section:
    return {name: value for name, value in keys.items() if value is not None}
