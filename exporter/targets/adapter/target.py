"""Target ``adapter`` as the commands know it: the edit as peft's ``PeftModel.from_pretrained``, vLLM and llama.cpp read it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from exporter.errors import CompileError
from exporter.targets.base import ExportContext, Target, TargetOptions
from exporter.targets.snippets import with_peft
from exporter.targets.values import (
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


class AdapterOptions(TargetOptions):
    """There is nothing to choose."""


class Adapter(Target[AdapterOptions]):
    """The edit beside its base; base and adapter compute what the merged checkpoint computes."""

    name = "adapter"
    title = "peft"
    artifact = "A LoRA adapter that `steerbake fit` or `export adapter` wrote."
    help = "Write a weight edit as a LoRA adapter, held to what peft, vLLM and llama.cpp load."
    marker = "weight_edit.json"
    Options = AdapterOptions
    requires = ("merged",)
    of_fit = True
    by_default = True
    parity = Parity(least_same=0.9)
    remedy = "fit again"
    instead_of_chat = (
        "`steerbake compile BASE FOLDER CHECKPOINT` merges it into its base, and CHECKPOINT can be talked to"
    )
    modules: ClassVar[Mapping[str, str]] = {"peft": "peft"}
    files = (
        FileKind("adapter_model.safetensors", "matrices A and B of the edit, layer by layer"),
        FileKind("adapter_config.json", "kind, rank and layers of the adapter, as peft reads them"),
        FileKind(
            "weight_edit.json", "the manifest: method, seed and base of the edit, and the hash of each file"
        ),
    )

    def export(self, source: Path, out: Path, options: AdapterOptions, context: ExportContext) -> Path:
        """Writes ``out``, the adapter of the folder ``source`` that a fit wrote."""
        from exporter.atomic import refuse_existing, whole_folder
        from exporter.targets.peft_loads import unservable
        from exporter.weight_edit import WeightEdit

        del options, context
        refuse_existing(out)
        edit = WeightEdit.load(source)
        if wrong := unservable(edit.config):
            raise CompileError(f"{source}: {'; '.join(wrong)}")
        with whole_folder(out) as folder:
            edit.save(folder)
        return out

    def open(self, folder: Path, reference: Reference) -> LoadedTarget:
        from exporter.targets.peft_loads import on_base
        from exporter.weight_edit import WeightEdit

        edit = WeightEdit.load(folder)
        same = edit.sha256 == reference.section["sha256"]
        wrong = [] if same else ["it is not the edit that the merged checkpoint has"]
        details = {"rank": edit.config.get("r"), "base": str(edit.base.fingerprint)}
        return on_base(self.name, folder, edit.edited_base, reference, details, wrong)

    def origin(self, folder: Path) -> Mapping[str, object]:
        from exporter.weight_edit import WeightEdit

        edit = WeightEdit.load(folder)
        return {"sha256": edit.sha256, "base": edit.edited_base.data()}

    def check_loads(
        self, loaded: LoadedTarget, completions: Completions, trusted: Path | None = None
    ) -> Finding:
        from exporter.targets.peft_loads import clean_adapter

        del trusted
        return clean_adapter(loaded, completions)

    def summary(self, folder: Path, *, checked: bool) -> Summary | None:
        from exporter.targets.edited_base import bound_rows
        from exporter.weight_edit import EditManifest

        manifest = EditManifest.load(folder)
        if checked:
            manifest.check_files(folder)
        rows = [
            ("method", manifest.method),
            ("seed", str(manifest.seed)),
            ("base", f"{manifest.base.architecture}, {manifest.base.fingerprint}"),
            *bound_rows(manifest.base),
        ]
        line = (
            "a LoRA adapter: load the base, then peft's PeftModel.from_pretrained; alone it changes nothing"
        )
        return Summary(manifest.data(), f"adapter: {folder}", ("", "value"), rows, line)

    def describe(self, release: Path, place: Place) -> UsageSnippet:
        code = with_peft(release, place, self.name)
        note = (
            "The same edit as a LoRA adapter, for those who have the base. **Without the adapter the base answers as before**: a server that "
            "leaves it out, or an application that loads the base alone, forgets nothing."
        )
        return UsageSnippet(self.name, self.title, "python", code, note)
