"""A folder of GGUF files opened, and what is wrong with it before anything is run."""

from __future__ import annotations

import json
from pathlib import Path

from exporter.digests import digest_of_file
from exporter.errors import VerificationError
from exporter.targets.gguf import manifest
from exporter.targets.gguf.host import GgufHost
from exporter.targets.gguf.precisions import KEPT
from exporter.targets.stock.loads import of_another
from exporter.targets.stock.manifest import STOCK_JSON
from exporter.targets.values import EXPORT_AGAIN, Completions, Finding, LoadedTarget, Reference


def opened(folder: Path, reference: Reference) -> LoadedTarget:
    """Checks every file; raises VerificationError where one is missing or not the one that gguf.json names."""
    content = json.loads((folder / manifest.MANIFEST).read_text(encoding="utf-8"))
    if content["format"] != manifest.FORMAT:
        raise VerificationError(f"gguf.json has the format {content['format']!r}, not {manifest.FORMAT!r}")
    wrong = of_another(content["stock"]["checkpoint"], reference.section)
    for name, file in content["files"].items():
        if not (folder / name).is_file() or digest_of_file(folder / name) != file["sha256"]:
            raise VerificationError(f"{name} is missing or not the file that gguf.json names")
        quantised = sorted({kind for kind in file["inserted"].values() if kind.upper() not in KEPT})
        wrong += [f"{name} quantises the layers that steer to {', '.join(quantised)}"] if quantised else []
    beside = folder.parent / "stock" / STOCK_JSON
    if beside.is_file() and digest_of_file(beside) != content["stock"]["sha256"]:
        wrong.append("it was made of another stock checkpoint than the one beside it")
    host = reference.host
    ends = sorted(host.end_ids)
    files = {name: GgufHost(folder / name, host.tokenizer, ends) for name in content["files"]}
    return LoadedTarget(folder, "gguf", files, {"layers": content["stock"]["layers"]}, wrong, images=False)


def loads_in_llama_cpp(loaded: LoadedTarget, completions: Completions) -> Finding:
    """Every file answers; what it answers is compared by rows."""
    for variant, generator in loaded.generators.items():
        if not all(Completions.of(generator, completions.prompts[:1]).tokens):
            return Finding(False, f"{variant} says nothing; {EXPORT_AGAIN}", None)
    names = ", ".join(loaded.generators)
    return Finding(True, f"llama.cpp loads and runs {names}; the files are those that gguf.json names", None)
