"""The targets in a folder, or given with --against, loaded to be evaluated and compared with the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from exporter import registry
from exporter.digests import digest_of_file
from exporter.errors import VerificationError
from exporter.host import ModelHost
from exporter.publish.files import CHECKPOINT, targets_in
from exporter.targets.values import LoadedTarget, Reference
from exporter.types import Prompt
from exporter.verify import parity


def discover_targets(folder: Path, against: Sequence[Path]) -> dict[str, Path]:
    """Every target by label: that at the root is the checkpoint, those in ``folder`` go by their kind, others by the names of their folders.

    Raises:
        VerificationError: there is nothing to verify, or no steered checkpoint among all of it.
    """
    found = targets_in(folder)
    kind = registry.kind_of(folder)
    if kind is not None and registry.target(kind).requires:
        found.setdefault(kind, folder)
    for other in against:
        if registry.kind_of(other) is None:
            raise VerificationError(
                f"{other} is neither a steered checkpoint nor an exported folder: config.json has no steering section, and the folder "
                f"contains no {_either(list(dict.fromkeys(one.marker for one in registry.targets().values() if one.name != CHECKPOINT)))}"
            )
        label = (
            CHECKPOINT
            if CHECKPOINT not in found and registry.root_at(other) is not None
            else other.resolve().name
        )
        while label in found:
            label += "'"
        found[label] = other
    if CHECKPOINT not in found:
        raise VerificationError(
            f"{folder} contains no steered checkpoint; give the checkpoint to compare its targets with by --against"
        )
    return dict(sorted(found.items(), key=lambda item: item[0] != CHECKPOINT))


def opened(
    label: str,
    path: Path,
    section: Mapping[str, object],
    host: ModelHost,
    digest: Callable[[Path], str] = digest_of_file,
    base: Path | None = None,
) -> LoadedTarget:
    """Opens one target and checks its files against its own manifest.

    Args:
        section: the steering of the checkpoint that it must have been made from.
        host: that checkpoint.
        digest: finds the SHA-256 of a file.
        base: the folder of the model that it was made from.

    Raises:
        VerificationError: a file is missing or was changed, or no part of it can be run.
    """
    target = registry.target(registry.kind_of(path) or CHECKPOINT)
    try:
        return target.open(path, Reference(section, host, digest, base))
    except (KeyError, ValueError, OSError) as error:
        raise VerificationError(f"{label} cannot be opened: {error}".replace(f"{path}/", "")) from error


def logits_of(
    loaded: LoadedTarget, host: ModelHost, prompts: Mapping[str, Sequence[Prompt]]
) -> dict[str, dict[str, Any]]:
    """Logits, gates and tokens of every variant against the checkpoint's, of targets that compute the same; nothing for others."""
    if not registry.target(loaded.kind).parity.logits:
        return {}
    others: dict[str, Any] = dict(loaded.generators)
    found = parity.compare(host, others, prompts, forced=loaded.forced)
    return {variant: parity.table(some, variant) for variant, some in found.items()}


def _either(names: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
