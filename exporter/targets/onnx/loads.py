"""A folder of graphs opened, and held to what it must be in a clean environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exporter.foreign_code import check_code, earlier_notes
from exporter.targets import clean_environment as clean
from exporter.targets.onnx.host import OnnxHost
from exporter.targets.onnx.manifest import OnnxManifest
from exporter.targets.onnx.target import RUNNER
from exporter.targets.onnx_runner import checked_manifest
from exporter.targets.values import Completions, Finding, LoadedTarget, Reference

_SCRIPT = Path(__file__).with_name("clean_load.py")


def opened(folder: Path, reference: Reference) -> LoadedTarget:
    """Checks every file and opens every variant; raises FolderError where the folder is not whole."""
    checked_manifest(folder, reference.digest)
    manifest = OnnxManifest.load(folder)
    wrong = _of_another(manifest, reference.section)
    variants = {
        dtype: OnnxHost.load(folder, reference.host.processor, dtype=dtype, digest=reference.digest)
        for dtype in manifest.variants
    }
    provider = next(iter(variants.values())).model.provider
    details = {"provider": provider, "gate_state": manifest.gate_state}
    return LoadedTarget(folder, "onnx", variants, details, wrong, forced=manifest.gate_state == "io")


def _of_another(manifest: OnnxManifest, section: Mapping[str, object]) -> list[str]:
    """That graphs do not hold what makes the checkpoint with this section another model than its base; nothing where they do."""
    if manifest.edit is not None:
        told = (manifest.edit.sha256, manifest.edit.fingerprint)
        same = "edit" in section and told == (section["sha256"], section["fingerprint"])
        return [] if same else ["the folder does not contain the edited weights of this checkpoint"]
    if manifest.steering is None or manifest.steering["sha256"] != section["sha256"]:
        return ["the folder does not contain the steering of this checkpoint"]
    return []


def named_files(folder: Path) -> list[str]:
    """The files that the manifest names, but for empty ones."""
    return [name for name, entry in OnnxManifest.load(folder).files.items() if entry.bytes]


def onnx_folder(folder: Path, completions: Completions) -> Finding:
    """A folder of graphs, by the runner that lies in it and without PyTorch.

    Raises:
        VerificationError: its runner is not what this version or an earlier one writes, and is not run; or it does not run.
    """
    check_code(folder)
    smallest = min(
        named_files(folder), key=lambda name: (folder / name).stat().st_size
    )  # a copy of the graphs would be large
    with clean.scratch() as scratch:
        missing, changed = scratch / "missing", scratch / "changed"
        for copy in (missing, changed):
            clean.link(folder, copy, [path for path in clean.below(folder) if path != smallest])
        clean.change(folder / smallest, changed / smallest)
        damaged = {f"without {smallest}": missing, f"with a changed {smallest}": changed}
        observed = clean.found(_SCRIPT, folder, damaged, completions, runner=RUNNER)
    wrong = [f"it loads {name}" for name, how in observed["refused"].items() if how is None]
    wrong += [f"its runner imports {', '.join(observed['loaded'])}"] if observed["loaded"] else []
    wrong += clean.differences(observed, completions)
    found = clean.finding(wrong, observed, "its runner runs it without PyTorch", "export it again")
    return clean.noted(found, earlier_notes(folder).get(""))
