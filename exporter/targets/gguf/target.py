"""Target ``gguf`` as the commands know it: files for llama.cpp of a stock checkpoint, or of a merged one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from exporter import registry
from exporter.errors import CompileError, VerificationError
from exporter.targets.base import ExportContext, Flag, RecipeKey, Target, TargetOptions
from exporter.targets.gguf.precisions import DEFAULT
from exporter.targets.values import (
    Completions,
    FileKind,
    Finding,
    LoadedTarget,
    Place,
    Reference,
    UsageSnippet,
)

if TYPE_CHECKING:
    from exporter.methods.base import Yields
    from exporter.targets.gguf.manifest import GgufManifest
    from steer_modules.program import SteeringProgram

STOCK = "stock"
BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 1.1, "q4_k_m": 0.7}
"""Bytes for each parameter, by type."""
_PREFERRED = ("Q8_0", "Q4_K_M", "f16")
_OF_STOCK = "Made from the stock checkpoint. The layers that steer are not quantised; the others are, which changes the states that gates read."
_OF_MERGED = (
    "Made from the checkpoint above, whose weights hold the edit. There is no gate in it. Quantised weights may bring back what was forgotten: "
    "Checks has the leaks of each file."
)
_FILE = re.compile(r"[A-Za-z0-9._-]+")
_VOCABULARY = re.compile(r"tokenizer\.ggml\.(tokens|merges|token_type|scores)")
"""Fields of every word that a tokenizer knows; those are the base's, and cannot be left out."""


class GgufOptions(TargetOptions):
    """What may be asked of an export.

    Attributes:
        types: files to write, of ``precisions.CONVERTED`` and ``precisions.QUANTISED``.
        llama_cpp: sources of llama.cpp; None: the environment variable LLAMA_CPP, else PATH.
        name: what the files and the model in them are called; None: the name of the folder that they are made from.
    """

    types: Annotated[
        tuple[str, ...],
        Flag(
            "--type",
            "Type of a file: f16, q8_0 and q4_k_m by default; f32, q4_0 and others. Can be repeated.",
        ),
        RecipeKey(list[str], "Types of the files; f16, q8_0 and q4_k_m by default."),
    ] = DEFAULT
    llama_cpp: Annotated[
        Path | None,
        Flag("--llama-cpp", "Folder of llama.cpp's sources; by default LLAMA_CPP, then PATH.", "DIR"),
    ] = None
    name: Annotated[
        str | None, Flag("--name", "Prefix of the file names; the name of the source folder by default.")
    ] = None

    def for_release(self, name: str) -> GgufOptions:
        return self.model_copy(update={"name": name})


class Gguf(Target[GgufOptions]):
    """Holds the stock checkpoint's layers that steer in f16, and the others as they are asked for; a merged checkpoint has none that steer."""

    name = "gguf"
    title = "llama.cpp"
    artifact = "What `steerbake export gguf` wrote."
    help = "Write files for llama.cpp; layers that steer are not quantised."
    marker = "gguf.json"
    Options = GgufOptions
    requires = (STOCK, "merged")
    remedy = "remove its type from publish.gguf_types"
    instead_of_chat = "llama.cpp runs its files: `llama-cli -m FILE`"
    modules: ClassVar[Mapping[str, str]] = {"gguf": "'steerbake[gguf]'"}
    files = (
        FileKind("*.gguf", "the whole model for llama.cpp, without code"),
        FileKind("gguf.json", "the manifest: the files and their hashes"),
    )

    def lower(self, program: SteeringProgram) -> list[str]:
        return registry.target(STOCK).lower(program)

    def check_family(self, config: Mapping[str, object], yields: Yields = "program") -> None:
        if yields == "program":
            registry.target(STOCK).check_family(config, yields)
        if "text_config" in config or "vision_config" in config:
            raise CompileError(
                f"a model of type {config['model_type']!r} reads images, and a GGUF file contains only its text decoder; export onnx "
                "instead"
            )

    def check(self, options: GgufOptions, config: Mapping[str, Any] | None, weights: object) -> None:
        from exporter.targets.gguf.tools import find_converter, find_quantiser

        del config, weights
        find_converter(options.llama_cpp)
        if any(kind.lower() not in ("f16", "f32", "bf16") for kind in options.types):
            find_quantiser(options.llama_cpp)

    def disk(self, options: GgufOptions, parameters: int, weights: int) -> int:
        del weights
        return round(parameters * sum(BYTES.get(kind.lower(), 1.0) for kind in {*options.types}))

    def export(
        self, source: Path, out: Path, options: GgufOptions, context: ExportContext | None = None
    ) -> Path:
        from exporter.targets.gguf.export import export_gguf

        del context
        return export_gguf(source, out, options)

    def open(self, folder: Path, reference: Reference) -> LoadedTarget:
        from exporter.targets.gguf.loads import opened

        return opened(folder, reference)

    def origin(self, folder: Path) -> Mapping[str, object]:
        from exporter.targets.gguf.manifest import GgufManifest

        return GgufManifest.load(folder).origin

    def check_loads(
        self, loaded: LoadedTarget, completions: Completions, trusted: Path | None = None
    ) -> Finding:
        from exporter.targets.gguf.loads import loads_in_llama_cpp

        del trusted
        return loads_in_llama_cpp(loaded, completions)

    def describe(self, release: Path, place: Place) -> UsageSnippet:
        folder = release / self.name
        names = sorted(path.name for path in folder.glob("*.gguf"))
        wanted = [name for kind in _PREFERRED for name in names if kind in name]
        if not names or not all(map(_FILE.fullmatch, names)):
            raise VerificationError(
                f"the manifest of {folder} lists no GGUF file; export the gguf target again"
            )
        name = (wanted or names)[0]
        code = (
            f"{'' if place.repo_id is None else 'pip install huggingface_hub'}\n"
            f"{place.download(self.name)}\n"
            f'llama-cli -m {place.within(self.name, name)} -p "Hello"'
        ).lstrip("\n")
        note = _OF_MERGED if self._manifest(folder).merged is not None else _OF_STOCK
        return UsageSnippet(self.name, self.title, "sh", code, note)

    @staticmethod
    def _manifest(folder: Path) -> GgufManifest:
        from exporter.targets.gguf.manifest import GgufManifest

        return GgufManifest.load(folder)

    def texts(self, path: Path) -> Iterator[str]:
        if path.suffix.lower() != ".gguf":
            return
        from gguf import GGUFReader, GGUFValueType

        for name, field in GGUFReader(path).fields.items():
            if field.types and field.types[-1] == GGUFValueType.STRING and not _VOCABULARY.fullmatch(name):
                yield from (
                    bytes(field.parts[place]).decode("utf-8", errors="replace") for place in field.data
                )
