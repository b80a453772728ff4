"""A stock checkpoint opened, and held to what it must be in a clean environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from exporter.host import ModelHost
from exporter.targets.stock.manifest import Source, StockManifest
from exporter.targets.values import LoadedTarget, Reference


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


def of_another(source: Source, section: Mapping[str, Any]) -> list[str]:
    """That a manifest's ``checkpoint`` is not the one with this steering section; nothing where it is."""
    same = source.sha256 == section["sha256"] and source.fingerprint == section["base"]["fingerprint"]
    return [] if same else ["it was made from another steered checkpoint"]
