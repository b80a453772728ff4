"""Adapters opened on their base by peft, and held to what they must be in a clean environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel

from exporter.errors import VerificationError
from exporter.host import ModelHost
from exporter.model_folder import read_object
from exporter.targets import clean_environment as clean
from exporter.targets.edited_base import not_noted, why_other_base
from exporter.targets.transformers_loads import auto_class
from exporter.targets.values import Completions, Finding, LoadedTarget, Reference
from exporter.weight_edit import ADAPTER_CONFIG, ADAPTER_TENSORS, EditedBase

MOST_RANK = 512
"""The largest rank that vLLM serves (``--max-lora-rank``)."""
SCRIPT = Path(__file__).with_name("peft_clean_load.py")


def unservable(config: Mapping[str, object]) -> list[str]:
    """What of an adapter's config vLLM's loader refuses, one sentence each (https://docs.vllm.ai/en/latest/features/lora.html)."""
    rank = config.get("r")
    wrong = [f"its {key} cannot be served" for key in ("use_dora", "modules_to_save") if config.get(key)]
    if config.get("bias") not in (None, "none"):
        wrong.append("its bias cannot be served")
    if not isinstance(rank, int) or not 0 < rank <= MOST_RANK:
        wrong.append(f"its rank {rank} is not one of 1 to {MOST_RANK}")
    return wrong


def on_base(
    kind: str,
    folder: Path,
    base: EditedBase,
    reference: Reference,
    details: Mapping[str, object],
    wrong: Sequence[str],
) -> LoadedTarget:
    """An adapter loaded onto its base in float32, as the target ``kind``.

    Args:
        base: what it was made for.
        details: what is recorded of it.
        wrong: what is wrong with it already.

    Raises:
        VerificationError: the base is not at hand, or is another.
    """
    if reference.base is None:
        raise VerificationError("an adapter is verified on its base; name it by --recipe")
    wrong = [*wrong, *unservable(read_object(folder / ADAPTER_CONFIG, strict=False))]
    if other := why_other_base(base, reference.base):
        raise VerificationError(f"it was fitted on another base than the recipe's: {'; '.join(other)}")
    if note := not_noted(base):
        details = {**details, "note": note}
    host = ModelHost.load(reference.base, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(host.model, str(folder)).eval()
    loaded = tuned.load_adapter(str(folder), adapter_name="default")
    if lost := [key for key in loaded.missing_keys if "lora_" in key] + list(loaded.unexpected_keys):
        wrong.append(f"{lost[0]} of the adapter has no place in the base")
    return LoadedTarget(folder, kind, {"": host}, details, wrong, base=reference.base)


def clean_adapter(loaded: LoadedTarget, completions: Completions) -> Finding:
    """The adapter on its base by peft alone; copies that lack a part of it must not load."""
    (host,) = loaded.generators.values()
    base = loaded.base
    assert base is not None, "opened on its base"
    said = Completions.of(host, completions.prompts)
    with _damaged(loaded.path) as damaged:
        observed = clean.found(
            SCRIPT, loaded.path, damaged, said, base=str(base.resolve()), auto=auto_class(base)
        )
    wrong = [f"it loads {name}" for name, how in observed["refused"].items() if how is None]
    wrong += [f"{name} of the adapter is not filled" for name in observed["missing"][:1]]
    if not observed["changes"]:
        wrong.append("it changes no logit of the base")
    wrong += clean.differences(observed, said)
    fine = "peft loads it completely onto its base, whose logits it changes"
    return clean.finding(wrong, observed, fine, "export the adapter again")


@contextmanager
def _damaged(folder: Path) -> Iterator[dict[str, Path]]:
    """Copies of an adapter, as links, that lack one part and must not load."""
    with clean.scratch() as scratch:
        copies = {
            "without its tensors": scratch / "tensors",
            "without its config": scratch / "config",
            "with its tensors cut short": scratch / "cut",
        }
        for copy in copies.values():
            clean.link(folder, copy, clean.below(folder))
        (copies["without its tensors"] / ADAPTER_TENSORS).unlink()
        (copies["without its config"] / ADAPTER_CONFIG).unlink()
        cut = copies["with its tensors cut short"] / ADAPTER_TENSORS
        cut.unlink()
        cut.write_bytes((folder / ADAPTER_TENSORS).read_bytes()[:-1])
        yield copies
