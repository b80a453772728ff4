"""Target ``stock`` as the commands know it: a checkpoint of the base's own architecture, one or two decoder layers deeper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import CompileError
from exporter.targets.base import ExportContext, Target, TargetOptions
from exporter.targets.snippets import config_of, with_transformers
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
    from exporter.methods.base import Yields
    from exporter.targets.stock.manifest import StockManifest
    from steer_modules.program import SteeringProgram


class StockOptions(TargetOptions):
    """There is nothing to choose."""


class Stock(Target[StockOptions]):
    """Exact where its layers are solved, and an approximation of the steered checkpoint elsewhere (docs/stock.md)."""

    name = "stock"
    title = "Transformers, without remote code"
    artifact = "What `steerbake export stock` wrote."
    help = "Write a checkpoint of the stock architecture with an additional layer, which needs no code of its own."
    marker = "stock.json"
    Options = StockOptions
    serves = True
    calibrates = True
    parity = Parity(least_same=0.9)
    remedy = "remove the target from publish.targets"
    files = (
        FileKind("*.safetensors", "the base's weights and a computed layer that steers"),
        FileKind("stock.json", "the manifest: the computed layer, and the hash of each file"),
    )

    def lower(self, program: SteeringProgram) -> list[str]:
        if len(program.edits) != 1:
            layers = ", ".join(str(edit.layer) for edit in program.edits)
            message = (
                f"the program edits {len(program.edits)} layers ({layers}); a stock layer can replace only one edit: fit a method that "
                "edits one layer (keyed)"
            )
            return [message]
        if program.edits[0].gate is None:
            return [
                (
                    "a stock layer steers from the end of a prompt at which a gate is on, but the edit of this program has no gate; fit a "
                    "method with a gate (keyed)"
                )
            ]
        return []

    def check_family(self, config: Mapping[str, object], yields: Yields = "program") -> None:
        from exporter.targets.stock.decoder import check_kind

        del yields
        check_kind(config)

    def check(self, options: StockOptions, config: Mapping[str, Any] | None, weights: Any) -> None:
        from exporter.targets.stock.decoder import read_decoder

        del options
        if config is not None and weights is not None:
            read_decoder(dict(config), weights)

    def disk(self, options: StockOptions, parameters: int, weights: int) -> int:
        del options, parameters
        return round(weights * 1.2)

    def export(self, source: Path, out: Path, options: StockOptions, context: ExportContext) -> Path:
        from exporter.atomic import refuse_existing
        from exporter.targets.stock import export

        del options
        refuse_existing(out)
        base, calibration_set = context.calibration(source, code=("exporter/targets/answers.py",))
        return export.export_stock(source, out, base, calibration_set)

    def open(self, folder: Path, reference: Reference) -> LoadedTarget:
        from exporter.targets.stock.loads import opened

        return opened(folder, reference)

    def origin(self, folder: Path) -> Mapping[str, object]:
        from exporter.targets.stock.manifest import StockManifest

        return StockManifest.load(folder).checkpoint.origin

    def check_loads(
        self, loaded: LoadedTarget, completions: Completions, trusted: Path | None = None
    ) -> Finding:
        """Held to what it says here itself: it approximates the checkpoint, whose replies are compared by rows."""
        from exporter.targets.transformers_loads import plain_checkpoint

        del trusted
        (own,) = loaded.generators.values()
        said = Completions.of(own, completions.prompts)
        return plain_checkpoint(loaded.path, said, "export the stock target again", {})

    def chat(self, folder: Path, *, dtype: str | None, say: Callable[[str], None]) -> ChatModel | None:
        from exporter.targets.stock.manifest import StockManifest
        from exporter.targets.torch_chat import TorchChat

        StockManifest.load(folder).check_files(folder)
        return TorchChat.load(folder, dtype, say)

    def summary(self, folder: Path, *, checked: bool) -> Summary | None:
        from exporter.targets.stock.manifest import StockManifest

        manifest = StockManifest.load(folder)
        if checked:
            manifest.check_files(folder)
        return summarised(folder, manifest)

    def describe(self, release: Path, place: Place) -> UsageSnippet:
        architecture = str((config_of(release / self.name).get("architectures") or [""])[0])
        model = (
            "AutoModelForCausalLM"
            if architecture.endswith(("ForCausalLM", "LMHeadModel"))
            else "AutoModelForImageTextToText"
        )
        note = (
            "A checkpoint of the base's own architecture, with a computed layer instead of code. It approximates the checkpoint above; "
            "Checks lists the measured differences."
        )
        code = with_transformers(model, place.pretrained(', subfolder="stock"'))
        return UsageSnippet(self.name, self.title, "python", code, note)


def summarised(folder: Path, manifest: StockManifest) -> Summary:
    """The checks of a stock checkpoint, and what it does on calibration conversations."""
    compared = manifest.compared
    rows = [
        (
            check.name,
            f"{check.measured:.4g}",
            f"{'at least' if check.at_least else 'at most'} {check.bound:.4g}",
        )
        for check in manifest.checks
    ]
    line = (
        f"inserted layers: {', '.join(map(str, manifest.layers))}; on calibration conversations, token for token, "
        f"{compared.tokens_identical:.3f} of {compared.kept} retain replies equal the base's and {compared.exact_tokens:.3f} of "
        f"{compared.fired} others the steered checkpoint's; KL {compared.divergence:.2g}"
    )
    return Summary(manifest.data(), f"stock: {folder}", ("check", "measured", "bound"), rows, line)


def refuse(program: SteeringProgram) -> None:
    """Raises CompileError for a program that a stock layer cannot express."""
    if wrong := Stock().lower(program):
        raise CompileError(wrong[0])
