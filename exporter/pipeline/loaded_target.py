"""The targets that lie in a folder or beside it, opened so that rows can be put to them and compared with the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from exporter.errors import VerificationError
from exporter.evaluate.conversations import Generator
from exporter.host import ModelHost
from exporter.publish.files import CHECKPOINT, kind_of, targets_in
from exporter.targets.gguf import manifest as gguf_manifest
from exporter.targets.gguf.host import GgufHost
from exporter.targets.onnx.export import RUNNER
from exporter.targets.onnx.host import OnnxHost
from exporter.targets.onnx_runner import FolderError, checked_manifest, sha256_of
from exporter.targets.stock.manifest import STOCK_JSON
from exporter.targets.stock.manifest import checked_manifest as checked_stock
from exporter.types import Prompt
from exporter.verify import parity, strict
from exporter.verify.strict import Completions, Finding

EXPORT_AGAIN = "export it again from this checkpoint"


def discover_targets(folder: Path, against: Sequence[Path]) -> dict[str, Path]:
    """Every target by label: what lies in ``folder`` by its kind, others by the names of their folders.

    Raises:
        VerificationError: there is nothing to verify, or no steered checkpoint among all of it.
    """
    found = targets_in(folder)
    kind = kind_of(folder)
    if kind is not None:
        found.setdefault(kind, folder)
    for other in against:
        if kind_of(other) is None:
            raise VerificationError(
                f"{other} is neither a steered checkpoint nor what was exported from one: config.json bears no steering, and "
                "there is no steerbake.json, stock.json or gguf.json"
            )
        label = (
            CHECKPOINT if CHECKPOINT not in found and kind_of(other) == CHECKPOINT else other.resolve().name
        )
        while label in found:
            label += "'"
        found[label] = other
    if CHECKPOINT not in found:
        raise VerificationError(
            f"{folder} holds no steered checkpoint; name the one that its targets are to be held to with --against"
        )
    return dict(sorted(found.items(), key=lambda item: item[0] != CHECKPOINT))


@dataclass(frozen=True)
class LoadedTarget:
    """A target whose files are all there.

    Attributes:
        generators: by variant ("" where there is but one), what rows are put to.
        told: what is said of it under ``parity``.
        wrong: what is wrong with it before anything is run: one sentence each.
        images: whether it can be shown any.
    """

    path: Path
    kind: str
    generators: Mapping[str, Generator]
    told: Mapping[str, Any]
    wrong: Sequence[str] = ()
    images: bool = True

    def loads(self, completions: Completions, trusted: Path | None = None) -> Finding:
        """Strict loading in a clean process; the code of a ``trusted`` base may be run in it."""
        if self.kind == "onnx":
            files = [name for name, told in self.told["files"].items() if told["bytes"]]
            return strict.onnx_folder(self.path, RUNNER, files, completions)
        if self.kind == "stock":
            return strict.stock_checkpoint(self.path, self._own(completions))
        if self.kind == "gguf":
            return self._loads_in_llama_cpp(completions)
        return strict.steered_checkpoint(self.path, completions, trusted)

    def _own(self, completions: Completions) -> Completions:
        """The same prompts with what this target says of them here."""
        (generator,) = self.generators.values()
        return complete(generator, completions.prompts)

    def _loads_in_llama_cpp(self, completions: Completions) -> Finding:
        """Every file answers; what it answers is compared by rows."""
        for variant, generator in self.generators.items():
            replies = complete(generator, completions.prompts[:1]).tokens
            if not all(replies):
                return Finding(False, f"{variant} says nothing; {EXPORT_AGAIN}", None)
        names = ", ".join(self.generators)
        return Finding(
            True, f"llama.cpp loads and runs {names}; the files are those that gguf.json names", None
        )


def opened(label: str, path: Path, section: Mapping[str, Any], host: ModelHost) -> LoadedTarget:
    """Opens one target and checks its files against its own manifest.

    Args:
        section: the steering of the checkpoint that it must have been made from.
        host: that checkpoint.

    Raises:
        VerificationError: a file is missing or was changed, or no part of it can be run.
    """
    kind = kind_of(path)
    try:
        if kind == "onnx":
            return _graphs(path, section, host)
        if kind == "stock":
            return _stock(path, section, host)
        if kind == "gguf":
            return _gguf(path, section, host)
    except (FolderError, KeyError, ValueError, OSError) as error:
        raise VerificationError(f"{label} cannot be opened: {error}".replace(f"{path}/", "")) from error
    return LoadedTarget(path, CHECKPOINT, {"": host}, {})


def complete(generator: Generator, prompts: Sequence[Prompt]) -> Completions:
    """What a model generates after prompts without images, each on its own."""
    replies = [generator.generate([one], max_new_tokens=strict.NEW_TOKENS)[0].tokens for one in prompts]
    return Completions(tuple(prompts), tuple(tuple(reply) for reply in replies))


def _graphs(path: Path, section: Mapping[str, Any], host: ModelHost) -> LoadedTarget:
    manifest = checked_manifest(path)
    wrong = []
    if manifest["steering"] is None or manifest["steering"]["sha256"] != section["sha256"]:
        wrong.append("the folder does not bear the steering of this checkpoint")
    generators = {dtype: OnnxHost.load(path, host.processor, dtype=dtype) for dtype in manifest["variants"]}
    provider = next(iter(generators.values())).model.provider
    told = {"provider": provider, "gate_state": manifest["gate_state"], "files": manifest["files"]}
    return LoadedTarget(path, "onnx", generators, told, wrong)


def _stock(path: Path, section: Mapping[str, Any], host: ModelHost) -> LoadedTarget:
    told = checked_stock(path)
    wrong = _of_another(told["checkpoint"], section)
    wrong += [
        f"{check['name']}: it was written although that failed"
        for check in told["checks"]
        if not _held(check)
    ]
    stock = ModelHost.load(path, dtype=torch.float32)
    if stock.num_layers != host.num_layers + len(told["layers"]):
        wrong.append(f"it has {stock.num_layers} layers, not {host.num_layers + len(told['layers'])}")
    return LoadedTarget(
        path, "stock", {"": stock}, {"layers": told["layers"], "compared": told["compared"]}, wrong
    )


def _gguf(path: Path, section: Mapping[str, Any], host: ModelHost) -> LoadedTarget:
    told = json.loads((path / gguf_manifest.MANIFEST).read_text(encoding="utf-8"))
    if told["format"] != gguf_manifest.FORMAT:
        raise VerificationError(f"gguf.json has the format {told['format']!r}, not {gguf_manifest.FORMAT!r}")
    wrong = _of_another(told["stock"]["checkpoint"], section)
    for name, file in told["files"].items():
        if not (path / name).is_file() or sha256_of(path / name) != file["sha256"]:
            raise VerificationError(f"{name} is missing or not the file that gguf.json names")
        quantised = sorted({kind for kind in file["inserted"].values() if kind.lower() not in ("f16", "f32")})
        wrong += [f"{name} quantises the layers that steer to {', '.join(quantised)}"] if quantised else []
    beside = path.parent / "stock" / STOCK_JSON
    if beside.is_file() and sha256_of(beside) != told["stock"]["sha256"]:
        wrong.append("it was made of another stock checkpoint than the one beside it")
    ends = sorted(host.end_ids)
    generators = {name: GgufHost(path / name, host.tokenizer, ends) for name in told["files"]}
    return LoadedTarget(path, "gguf", generators, {"layers": told["stock"]["layers"]}, wrong, images=False)


def _of_another(told: Mapping[str, Any], section: Mapping[str, Any]) -> list[str]:
    same = told["sha256"] == section["sha256"] and told["fingerprint"] == section["base"]["fingerprint"]
    return [] if same else ["it was made of another steered checkpoint"]


def _held(check: Mapping[str, Any]) -> bool:
    measured, bound = check["measured"], check["bound"]
    return bool(measured >= bound if check["at_least"] else measured <= bound)


def logits_of(
    target: LoadedTarget, host: ModelHost, prompts: Mapping[str, Sequence[Prompt]]
) -> dict[str, dict[str, Any]]:
    """Logits, gates and tokens of every variant of a folder of graphs against the checkpoint's; nothing for other targets."""
    if target.kind != "onnx":
        return {}
    others: dict[str, Any] = dict(target.generators)
    found = parity.compare(host, others, prompts, forced=target.told["gate_state"] == "io")
    return {dtype: parity.table(some, dtype) for dtype, some in found.items()}
