"""Target ``onnx`` as the commands know it: graphs for ONNX Runtime that hold the steering, or an edit in their weights, with a runner of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from exporter import registry
from exporter.errors import CompileError, VerificationError
from exporter.targets.base import ExportContext, Flag, RecipeKey, Target, TargetOptions
from exporter.targets.values import (
    ChatModel,
    Completions,
    FileKind,
    Finding,
    LoadedTarget,
    Parity,
    Place,
    Reference,
    Summary,
    UsageSnippet,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from exporter.inspection import Inspection
    from exporter.methods.base import Yields
    from exporter.targets.onnx.manifest import EditInWeights

RUNNER = "steerbake_runner.py"
_HOME = Path(__file__).resolve().parents[2]
GRAPH_CODE = {
    "steerbake_graph.py": _HOME / "onnx_graph.py",
    RUNNER: _HOME / "targets" / "onnx_runner.py",
}
"""What travels in folders of graphs, and where it is from."""
GATE_STATES = ("io", "kv")
QUANTISED = ("int8", "q4")
BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.6, "q4": 1.2}
"""Bytes for each parameter of a graph; the matrix of the logits stays in float32."""
_OF_EDIT = (
    "The graphs compute with the edited weights; they have no gates, so nothing but a comparison of logits tells them from the base's "
    "(`steerbake verify`)."
)
_LARGEST = 1 << 29
"""Bytes of a graph up to which its texts are read; weights of a larger one lie in it."""


class OnnxOptions(TargetOptions):
    """What may be asked of an export.

    Attributes:
        dtypes: variants, of fp32, fp16, int8, q4; the first is the one a runtime takes unasked.
        gate_state: how gates go from pass to pass; None: as the layout needs it, else ``io``.
        layout: a runtime whose own files are written too.
        steered: False exports the base of the checkpoint, for comparison.
    """

    dtypes: Annotated[
        tuple[str, ...],
        Flag("--dtype", "fp32 (default), fp16, int8 or q4. Can be repeated."),
        RecipeKey(
            list[Literal["fp32", "fp16", "int8", "q4"]],
            "Precisions of the graphs.",
            ("fp32",),
            {"min_length": 1},
        ),
    ] = ("fp32",)
    gate_state: Annotated[
        str | None,
        Flag("--gate-state", "io: gates are inputs and outputs (default). kv: gates are part of the cache."),
    ] = None
    layout: Annotated[
        str | None, Flag("--layout", "Also write the files of a runtime: transformersjs or genai.")
    ] = None
    steered: Annotated[bool, Flag(" /--unsteered", "Export the unsteered base, for comparison.")] = True


class Onnx(Target[OnnxOptions]):
    """Computes what the checkpoint computes, so its logits are compared."""

    name = "onnx"
    title = "ONNX Runtime"
    artifact = "What `steerbake export onnx` wrote."
    help = "Write graphs for ONNX Runtime that contain the steering, or the weights with the edit, with a runner."
    marker = "steerbake.json"
    Options = OnnxOptions
    requires = (registry.REFERENCE, "merged")
    by_default = True
    holds_program = True
    parity = Parity(logits=True)
    remedy = "remove the variant from publish.onnx_dtypes"
    modules: ClassVar[Mapping[str, str]] = {name: name for name in ("onnx", "onnxscript", "onnxruntime")}
    errors = ("exporter.targets.onnx_runner:FolderError",)
    files = (
        FileKind("*.onnx_data", "weights of a graph"),
        FileKind("*vision_encoder*.onnx", "graph: images to embeddings"),
        FileKind("*embed*.onnx", "graph: tokens to embeddings"),
        FileKind(
            "*.onnx",
            "graph: the decoder, with the base's weights and the steering, or with the edited weights",
        ),
        FileKind("steerbake.json", "the manifest: the graphs, and the hash of each file"),
        FileKind("steerbake_runner.py", "runs the graphs"),
        FileKind("steerbake_graph.py", "reads the steering section of a graph", minor=True),
        FileKind("*genai_config.json", "settings of onnxruntime-genai", minor=True),
    )
    code = GRAPH_CODE

    def check_family(self, config: Mapping[str, object], yields: Yields = "program") -> None:
        from exporter.targets.onnx.families import family_of

        del yields
        family_of(str(config["model_type"]))

    def disk(self, options: OnnxOptions, parameters: int, weights: int) -> int:
        del weights
        kinds = {*options.dtypes, *(["fp32"] if {*QUANTISED} & {*options.dtypes} else [])}
        return round(parameters * sum(BYTES[kind] for kind in kinds))

    def validate(self, options: OnnxOptions) -> None:
        if options.gate_state not in (None, *GATE_STATES):
            raise CompileError(f"unknown gate state {options.gate_state!r}; valid values: io and kv")

    def advice(self, options: OnnxOptions) -> str | None:
        quantised = [dtype for dtype in options.dtypes if dtype in QUANTISED]
        if not quantised or not options.steered:
            return None
        return (
            f"onnx: the gate of {', '.join(quantised)} was calibrated in another precision; `steerbake verify CHECKPOINT --against OUT "
            "--recipe RECIPE` measures the leaks"
        )

    def export(self, source: Path, out: Path, options: OnnxOptions, context: ExportContext) -> Path:
        from exporter.atomic import refuse_existing
        from exporter.targets.onnx.export import export_onnx, prepare

        self.validate(options)
        refuse_existing(out)
        prepare(source, options)
        with TemporaryDirectory() as scratch:
            chat = context.rendered(source, Path(scratch))
            return export_onnx(source, out, options, chat.turns, chat.prompts)

    def open(self, folder: Path, reference: Reference) -> LoadedTarget:
        from exporter.targets.onnx.loads import opened

        return opened(folder, reference)

    def origin(self, folder: Path) -> Mapping[str, object]:
        from exporter.targets.onnx.manifest import OnnxManifest

        manifest = OnnxManifest.load(folder)
        if manifest.edit is not None:
            return {"sha256": manifest.edit.sha256, "base": manifest.base}
        if manifest.steering is None:
            raise VerificationError(f"{folder} was exported unsteered; export it without --unsteered")
        return {**manifest.steering, "base": manifest.base}

    def check_loads(
        self, loaded: LoadedTarget, completions: Completions, trusted: Path | None = None
    ) -> Finding:
        from exporter.targets.onnx.loads import onnx_folder

        del trusted
        return onnx_folder(loaded.path, completions)

    def inspect(self, folder: Path) -> Inspection:
        """Its program; raises FolderError where a file is not the one that the manifest names."""
        from exporter.targets.onnx_runner import checked_manifest

        checked_manifest(folder)
        return super().inspect(folder)

    def steering_tensors(self, folder: Path, manifest: Mapping[str, object]) -> Mapping[str, Tensor]:
        """The tensors that the decoders hold, every variant the same ones; raises GraphError where one does not."""
        import torch

        from exporter.onnx_graph import check_steering
        from exporter.targets.onnx.manifest import OnnxManifest

        del manifest
        found_manifest = OnnxManifest.load(folder)
        if not found_manifest.steered or found_manifest.steering is None:
            raise ValueError("it was exported unsteered")
        found: dict[str, np.ndarray] = {}
        for files in found_manifest.variants.values():
            found = check_steering(folder / files.decoder, found_manifest.steering)
        return {name: torch.from_numpy(values.copy()) for name, values in found.items()}

    def chat(self, folder: Path, *, dtype: str | None, say: Callable[[str], None]) -> ChatModel | None:
        from exporter.targets.onnx.chat import OnnxChat

        return OnnxChat.load(folder, dtype, say)

    def describe(self, release: Path, place: Place) -> UsageSnippet:
        folder = release / self.name
        if not (folder / RUNNER).is_file():
            raise VerificationError(f"{folder} has no {RUNNER}; export the onnx target again")
        sees = any(folder.rglob("vision_encoder*.onnx"))
        image = " --image picture.png" if sees else ""
        code = (
            f"pip install onnxruntime numpy tokenizers{' pillow' if sees else ''}{'' if place.repo_id is None else ' huggingface_hub'}\n"
            f"{place.download(self.name)}\n"
            f'python {place.within(self.name, RUNNER)} --prompt "Hello"{image}'
        )
        holds = "The steering is part of the graphs." if self._edit(folder) is None else _OF_EDIT
        note = f"{holds} The runner hashes every file first and refuses a folder with a changed file."
        return UsageSnippet(self.name, self.title, "sh", code, note)

    @staticmethod
    def _edit(folder: Path) -> EditInWeights | None:
        from exporter.targets.onnx.manifest import OnnxManifest

        return OnnxManifest.load(folder).edit

    def summary(self, folder: Path, *, checked: bool) -> Summary | None:
        """Of graphs with an edit in their weights; steered ones have a program that is shown."""
        from exporter.targets.onnx.manifest import OnnxManifest
        from exporter.targets.onnx_runner import check_graph, checked_manifest

        if not self.is_at(folder):
            return None
        manifest = OnnxManifest.load(folder)
        if (edit := manifest.edit) is None:
            return None
        if checked:
            told = checked_manifest(folder)
            for variant in manifest.variants.values():
                check_graph(folder, variant.decoder, told)
        rows = [
            ("method", edit.method),
            ("edit", f"sha256:{edit.sha256}"),
            ("weights", edit.fingerprint),
            ("variants", ", ".join(manifest.variants)),
        ]
        line = "no gates: the edit is in the weights; `steerbake verify CHECKPOINT --against FOLDER` compares the logits"
        return Summary(manifest.data(), f"onnx: {folder}", ("", "value"), rows, line)

    def texts(self, path: Path) -> Iterator[str]:
        if path.suffix.lower() != ".onnx" or path.stat().st_size >= _LARGEST:
            return
        import onnx

        model = onnx.load(str(path), load_external_data=False)
        yield from (model.doc_string, model.producer_name, model.graph.name, model.graph.doc_string)
        yield from (entry.value for entry in (*model.metadata_props, *model.graph.metadata_props))
        for part in (*model.graph.node, *(node for function in model.functions for node in function.node)):
            yield part.doc_string
            yield from (entry.value for entry in part.metadata_props)
