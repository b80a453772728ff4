"""The figures of a distilled adapter measured again: held to its manifest, and to the bounds of a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors.torch import load_file

from exporter.model_folder import read_object
from exporter.targets.lora.manifest import Fidelity, LoraManifest
from exporter.targets.values import EXPORT_AGAIN, Finding, Nearness
from exporter.weight_edit import ADAPTER_CONFIG, ADAPTER_TENSORS, WeightEdit
from steer_modules.program import BaseModelRef

RELATIVE, ABSOLUTE = 0.1, 0.01
"""How far two measurements of one adapter may lie apart: as a share of the larger, and in nats a token. Other devices and dtypes compute otherwise."""
_WHERE = {"forget": "where a gate is on", "kept": "elsewhere"}


def read_adapter(folder: Path, manifest: LoraManifest) -> WeightEdit:
    """The adapter of a folder whose files were checked."""
    base = manifest.base
    of = BaseModelRef(base.architecture, base.model_type, base.fingerprint)
    config = read_object(folder / ADAPTER_CONFIG, strict=False)
    tensors = load_file(folder / ADAPTER_TENSORS)
    noted = (base.weights_sha256, base.settings)
    return WeightEdit(manifest.teacher.method, of, manifest.seed, manifest.rows, config, tensors, *noted)


def compared(told: Fidelity, now: Nearness, bounds: Mapping[str, object]) -> Finding:
    """Whether an adapter lies as far from the checkpoint as its manifest tells, on as many conversations, and no further than a recipe allows.

    Args:
        bounds: ``divergence_forget`` and ``divergence_kept`` in nats a token; None where there is none.
    """
    wrong = [*_other_rows(told, now), *_other_figures(told, now), *_beyond(now, bounds)]
    shown = "; ".join(
        f"KL {getattr(now, part):.3g} nats a token {where} ({getattr(now, f'{part}_rows')} conversations)"
        for part, where in _WHERE.items()
    )
    return Finding(not wrong, "; ".join([shown, *wrong]), now._asdict())


def _other_rows(told: Fidelity, now: Nearness) -> Iterator[str]:
    for part, where in _WHERE.items():
        before, count = getattr(told, f"{part}_rows"), getattr(now, f"{part}_rows")
        if count != before:
            yield f"its manifest has {before} conversations {where}: the recipe's rows are others; {EXPORT_AGAIN}"
        elif not count:
            yield f"no conversation {where} to measure it on; add such rows to the recipe"


def _other_figures(told: Fidelity, now: Nearness) -> Iterator[str]:
    for part, where in _WHERE.items():
        before, value = getattr(told, part), getattr(now, part)
        if not abs(value - before) <= ABSOLUTE + RELATIVE * max(value, before):
            yield f"its manifest states {before:.3g} {where}, but {value:.3g} is measured; {EXPORT_AGAIN}"


def _beyond(now: Nearness, bounds: Mapping[str, object]) -> Iterator[str]:
    for part, where in _WHERE.items():
        most, value = bounds.get(f"divergence_{part}"), getattr(now, part)
        if isinstance(most, int | float) and not value <= most:
            yield (
                f"at most {most:g} {where} is required; export it with a higher --rank or more --epochs, or change "
                f"publish.require.divergence_{part}"
            )
