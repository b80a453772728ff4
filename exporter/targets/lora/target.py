"""Target ``lora`` as the commands know it: the steering as a LoRA adapter, which any loader of adapters runs beside others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from exporter.targets.base import ExportContext, Flag, Target, TargetOptions
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

if TYPE_CHECKING:
    from exporter.targets.lora.manifest import LoraManifest

RANK, EPOCHS, RATE = 32, 3, 1e-3


class LoraOptions(TargetOptions):
    """How the adapter is trained."""

    form: Annotated[
        Literal["auto", "switched", "trained"],
        Flag(
            "--form",
            "switched: neurons of the last block that are off on the retain set; trained: all linear layers, by gradient descent; auto: the "
            "first, and the second too where replies to held conversations differ in more than a tenth (default).",
            "FORM",
        ),
    ] = "auto"
    rank: Annotated[
        int,
        Field(gt=0, le=512),
        Flag("--rank", f"Rank of the adapter, at most ({RANK} by default).", "N"),
    ] = RANK
    epochs: Annotated[
        int,
        Field(gt=0),
        Flag("--epochs", f"trained: passes over the calibration conversations ({EPOCHS} by default).", "N"),
    ] = EPOCHS
    learning_rate: Annotated[
        float, Field(gt=0), Flag("--learning-rate", f"trained: of AdamW ({RATE:g} by default).", "X")
    ] = RATE


class Lora(Target[LoraOptions]):
    """A pupil of the steered checkpoint: it has no gate, and approximates it (docs/lora.md)."""

    name = "lora"
    title = "peft, distilled"
    artifact = "What `steerbake export lora` wrote."
    help = "Make a LoRA adapter say what the steered checkpoint says: no code, no additional layer."
    marker = "lora.json"
    Options = LoraOptions
    serves = True
    calibrates = True
    parity = Parity(least_same=0.9)
    remedy = "export it with a higher --rank or more --epochs, or remove it from publish.targets"
    instead_of_chat = "load it onto its base with peft (docs/lora.md)"
    modules: ClassVar[Mapping[str, str]] = {"peft": "peft"}
    files = (
        FileKind("adapter_model.safetensors", "matrices A and B of the adapter, layer by layer"),
        FileKind("adapter_config.json", "kind, rank and layers of the adapter, as peft reads them"),
        FileKind(
            "lora.json",
            "the manifest: the steered checkpoint that was learned from, and how far the adapter lies from it",
        ),
    )

    def disk(self, options: LoraOptions, parameters: int, weights: int) -> int:
        del options, parameters
        return weights // 4  # the adapter, and the states of its optimizer while it is trained

    def export(self, source: Path, out: Path, options: LoraOptions, context: ExportContext) -> Path:
        from exporter.atomic import refuse_existing, whole_folder
        from exporter.digests import digest_of_file
        from exporter.targets.lora.manifest import Fidelity, LoraManifest, Teacher

        refuse_existing(out)
        found = context.distilled(source, options.model_dump())
        with whole_folder(out) as folder:
            found.edit.save_adapter(folder)
            manifest = LoraManifest(
                format="steerbake-lora/1",
                teacher=Teacher(method=found.method, sha256=found.sha256),
                base=found.edit.manifest().base,
                rank=found.rank,
                seed=found.edit.seed,
                rows=found.edit.rows,
                conversations=found.conversations,
                form=found.form,
                settings=options.model_dump(),
                fidelity=Fidelity(
                    forget=found.forget,
                    forget_rows=found.forget_rows,
                    kept=found.kept,
                    kept_rows=found.kept_rows,
                    forget_same=found.forget_same,
                    kept_same=found.kept_same,
                ),
                files={path.name: digest_of_file(path) for path in sorted(folder.iterdir())},
            )
            manifest.save(folder / LoraManifest.FILE)
        return out

    def open(self, folder: Path, reference: Reference) -> LoadedTarget:
        from exporter.targets.peft_loads import on_base

        manifest = self._manifest(folder)
        manifest.check_files(folder, reference.digest)
        wrong = []
        if manifest.teacher.sha256 != reference.section["sha256"]:
            wrong.append("it was learned from another steered checkpoint")
        details = {"rank": manifest.rank, "fidelity": manifest.fidelity.data()}
        return on_base(self.name, folder, manifest.base, reference, details, wrong)

    def measured_again(
        self, loaded: LoadedTarget, checkpoint: Path, context: ExportContext, bounds: Mapping[str, object]
    ) -> Finding | None:
        """How far it lies from the checkpoint; its manifest says how far that was when it was trained."""
        from exporter.targets.lora.again import compared, read_adapter

        manifest = self._manifest(loaded.path)
        now = context.nearness(checkpoint, read_adapter(loaded.path, manifest))
        return compared(manifest.fidelity, now, bounds)

    def origin(self, folder: Path) -> Mapping[str, object]:
        manifest = self._manifest(folder)
        return {"sha256": manifest.teacher.sha256, "base": manifest.base.data()}

    def check_loads(
        self, loaded: LoadedTarget, completions: Completions, trusted: Path | None = None
    ) -> Finding:
        from exporter.targets.peft_loads import clean_adapter

        del trusted
        return clean_adapter(loaded, completions)

    def summary(self, folder: Path, *, checked: bool) -> Summary | None:
        manifest = self._manifest(folder)
        if checked:
            manifest.check_files(folder)
        near = manifest.fidelity
        rows = [
            ("learned from", f"sha256:{manifest.teacher.sha256}"),
            ("form", manifest.form),
            ("rank", str(manifest.rank)),
            ("KL where a gate is on", f"{near.forget:.3g} nats a token, {near.forget_rows} conversations"),
            ("KL elsewhere", f"{near.kept:.3g} nats a token, {near.kept_rows} conversations"),
        ]
        line = "an approximation without a gate: what it forgets and keeps is measured by `steerbake verify CHECKPOINT --against FOLDER --recipe RECIPE`"
        return Summary(manifest.data(), f"lora: {folder}", ("", "value"), rows, line)

    def describe(self, release: Path, place: Place) -> UsageSnippet:
        code = with_peft(release, place, self.name)
        near = self._manifest(release / self.name).fidelity
        note = (
            "A LoRA adapter that was trained to what the checkpoint above says. It has no gate and approximates the checkpoint: KL "
            f"{near.forget:.3g} nats a token where a gate is on, {near.kept:.3g} elsewhere; Results and Checks have what it forgets and keeps. "
            "**Without the adapter the base answers as before.**"
        )
        return UsageSnippet(self.name, self.title, "python", code, note)

    @staticmethod
    def _manifest(folder: Path) -> LoraManifest:
        from exporter.targets.lora.manifest import LoraManifest

        return LoraManifest.load(folder)
