"""A folder of GGUF files opened, and what is wrong with it before anything is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.targets.gguf.host import GgufHost
from exporter.targets.gguf.manifest import GgufManifest, MergedShown, StockShown
from exporter.targets.gguf.precisions import CONVERTED, KEPT
from exporter.targets.stock.loads import of_another
from exporter.targets.stock.manifest import STOCK_JSON
from exporter.targets.values import EXPORT_AGAIN, Completions, Finding, LoadedTarget, Reference

LEAST_SAME = 0.9
"""Share of replies of a file that is not quantised that must be the merged checkpoint's, token for token."""


def opened(folder: Path, reference: Reference) -> LoadedTarget:
    """Checks every file; raises VerificationError where one is missing or not the one that gguf.json names."""
    manifest = GgufManifest.load(folder)
    manifest.check_files(folder, reference.digest)
    wrong = _of_another(manifest.made_of, reference.section)
    for name, file in manifest.files.items():
        quantised = sorted({kind for kind in file.inserted.values() if kind.upper() not in KEPT})
        wrong += [f"{name} quantises the layers that steer to {', '.join(quantised)}"] if quantised else []
    beside = folder.parent / "stock" / STOCK_JSON
    if manifest.stock is not None and beside.is_file() and reference.digest(beside) != manifest.stock.sha256:
        wrong.append("it was made from another stock checkpoint than the one in this release")
    host = reference.host
    ends = sorted(host.end_ids)
    files = {name: GgufHost(folder / name, host.tokenizer, ends) for name in manifest.files}
    least = {} if manifest.merged is None else dict.fromkeys(_unquantised(manifest), LEAST_SAME)
    details = {"layers": [] if manifest.stock is None else manifest.stock.layers}
    return LoadedTarget(folder, "gguf", files, details, wrong, images=False, least_same=least)


def _of_another(shown: StockShown | MergedShown, section: Mapping[str, Any]) -> list[str]:
    """That files were not made of the checkpoint with this section; nothing where they were."""
    if isinstance(shown, StockShown):
        return of_another(shown.checkpoint, section)
    told = (shown.edit, shown.fingerprint)
    same = "edit" in section and told == (section["sha256"], section["fingerprint"])
    return [] if same else ["it was made from another merged checkpoint"]


def _unquantised(manifest: GgufManifest) -> list[str]:
    """Files that compute what the checkpoint computes, but for rounding to 16 bits; what others lose is counted in replies."""
    return [name for name, file in manifest.files.items() if file.type.lower() in CONVERTED]


def loads_in_llama_cpp(loaded: LoadedTarget, completions: Completions) -> Finding:
    """Every file answers; what it answers is compared by rows."""
    for variant, generator in loaded.generators.items():
        if not all(Completions.of(generator, completions.prompts[:1]).tokens):
            return Finding(False, f"{variant} generates nothing; {EXPORT_AGAIN}", None)
    names = ", ".join(loaded.generators)
    return Finding(True, f"llama.cpp loads and runs {names}; the files match gguf.json", None)
