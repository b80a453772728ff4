"""A stock checkpoint opened, and held to what it must be in a clean environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from exporter.host import ModelHost
from exporter.targets import clean_environment as clean
from exporter.targets.stock.manifest import Source, StockManifest
from exporter.targets.transformers_loads import SCRIPT, auto_class
from exporter.targets.values import Completions, Finding, LoadedTarget, Reference


def opened(folder: Path, reference: Reference) -> LoadedTarget:
    """Checks every file and loads the model; raises VerificationError where a file is not the one that stock.json names."""
    manifest, host = StockManifest.load(folder), reference.host
    manifest.check_files(folder, reference.digest)
    wrong = of_another(manifest.checkpoint, reference.section)
    wrong += [
        f"{check.name}: this check failed when the checkpoint was written"
        for check in manifest.checks
        if not check.is_held
    ]
    stock = ModelHost.load(folder, dtype=torch.float32)
    if stock.num_layers != host.num_layers + len(manifest.layers):
        wrong.append(f"it has {stock.num_layers} layers, not {host.num_layers + len(manifest.layers)}")
    shown = {"layers": manifest.layers, "compared": manifest.compared.data()}
    return LoadedTarget(folder, "stock", {"": stock}, shown, wrong)


def stock_checkpoint(folder: Path, completions: Completions) -> Finding:
    """A checkpoint of a stock architecture, by Transformers alone: no code may lie in it or be asked for."""
    auto = auto_class(folder)
    observed = clean.found(SCRIPT, folder, {}, completions, auto=auto, trust=False)
    wrong = (
        [f"{len(observed['missing'])} tensors are missing, {observed['missing'][0]} first"]
        if observed["missing"]
        else []
    )
    wrong += [f"it contains code: {path.name}" for path in sorted(folder.glob("*.py"))]
    if not observed["module"].startswith("transformers.models."):
        wrong.append(f"its class {observed['module']}.{observed['class']} is not a Transformers class")
    wrong += clean.differences(observed, completions)
    return clean.finding(
        wrong,
        observed,
        f"{observed['class']} loads completely without trust_remote_code",
        "export the stock target again",
    )


def of_another(source: Source, section: Mapping[str, Any]) -> list[str]:
    """That a manifest's ``checkpoint`` is not the one with this steering section; nothing where it is."""
    same = source.sha256 == section["sha256"] and source.fingerprint == section["base"]["fingerprint"]
    return [] if same else ["it was made from another steered checkpoint"]
