"""A folder of GGUF files opened, and what is wrong with it before anything is run."""

from __future__ import annotations

from pathlib import Path

from exporter.targets.gguf.host import GgufHost
from exporter.targets.gguf.manifest import GgufManifest
from exporter.targets.gguf.precisions import KEPT
from exporter.targets.stock.loads import of_another
from exporter.targets.stock.manifest import STOCK_JSON
from exporter.targets.values import EXPORT_AGAIN, Completions, Finding, LoadedTarget, Reference


def opened(folder: Path, reference: Reference) -> LoadedTarget:
    """Checks every file; raises VerificationError where one is missing or not the one that gguf.json names."""
    manifest = GgufManifest.load(folder)
    manifest.check_files(folder, reference.digest)
    wrong = of_another(manifest.stock.checkpoint, reference.section)
    for name, file in manifest.files.items():
        quantised = sorted({kind for kind in file.inserted.values() if kind.upper() not in KEPT})
        wrong += [f"{name} quantises the layers that steer to {', '.join(quantised)}"] if quantised else []
    beside = folder.parent / "stock" / STOCK_JSON
    if beside.is_file() and reference.digest(beside) != manifest.stock.sha256:
        wrong.append("it was made from another stock checkpoint than the one in this release")
    host = reference.host
    ends = sorted(host.end_ids)
    files = {name: GgufHost(folder / name, host.tokenizer, ends) for name in manifest.files}
    return LoadedTarget(folder, "gguf", files, {"layers": manifest.stock.layers}, wrong, images=False)


def loads_in_llama_cpp(loaded: LoadedTarget, completions: Completions) -> Finding:
    """Every file answers; what it answers is compared by rows."""
    for variant, generator in loaded.generators.items():
        if not all(Completions.of(generator, completions.prompts[:1]).tokens):
            return Finding(False, f"{variant} generates nothing; {EXPORT_AGAIN}", None)
    names = ", ".join(loaded.generators)
    return Finding(True, f"llama.cpp loads and runs {names}; the files match gguf.json", None)
