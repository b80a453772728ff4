"""The LoRA adapter that is trained: put into a model in memory, and taken out again as an edit."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from exporter.errors import FitError
from exporter.fitting.context import FitContext
from exporter.splits import digest_of_rows
from exporter.weight_edit import ADAPTER_CONFIG, ADAPTER_TENSORS, WeightEdit
from steer_modules.program import BaseModelRef

if TYPE_CHECKING:
    from peft import LoraConfig

_ONLY_HERE = ("base_model_name_or_path", "auto_mapping", "revision")
"""Keys of an adapter's config that say where its base lay; the manifest names it by its fingerprint."""
_SETS = ("target_modules", "exclude_modules")
_UNKNOWN = f"sha256:{'0' * 64}"


def linear_layers(model: Any, *, vision: bool = False, blocks: Sequence[int] | None = None) -> list[str]:
    """Full names of the linear layers of a model that an adapter edits, embeddings and head aside.

    Args:
        vision: those outside the decoder too.
        blocks: only those of these decoder blocks.

    Raises:
        FitError: there are none.
    """
    from steer_modules.steered_model import decoder_blocks

    decoder = decoder_blocks(model)
    parts = [decoder[one] for one in blocks] if blocks is not None else [model if vision else decoder]
    head = model.get_output_embeddings()
    inside = {id(one) for part in parts for one in part.modules() if _is_linear(one) and one is not head}
    found = [name for name, one in model.named_modules() if id(one) in inside]
    if not found:
        raise FitError(
            f"{type(model).__name__} has no linear layer of a kind that LoRA edits (torch.nn.Linear, Conv1D); use a steering method (keyed)"
        )
    return found


class Diverged(FitError):
    """A training that ended with numbers that are not finite."""


def lora_config(names: Sequence[str], *, rank: int, alpha: int) -> LoraConfig:
    """peft's config of an adapter over these layers, scaled by alpha / rank, without dropout."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=list(names),
        task_type="CAUSAL_LM",
        bias="none",
    )


@contextmanager
def with_adapter(model: Any, names: Sequence[str], *, rank: int, alpha: int) -> Iterator[Any]:
    """The model with a new LoRA adapter over these layers, as a ``PeftModel``; it is the base again after the block.

    A is random and B zero, so the model begins as its base.
    """
    from peft import get_peft_model

    with as_before(model):
        tuned = get_peft_model(model, lora_config(names, rank=rank, alpha=alpha))
        try:
            yield tuned
        finally:
            tuned.unload()


@contextmanager
def as_before(model: Any) -> Iterator[None]:
    """Takes off a model what peft leaves on it."""
    grads = {name: one.requires_grad for name, one in model.named_parameters()}
    try:
        yield
    finally:
        for name in ("peft_config", "_hf_peft_config_loaded"):
            vars(model).pop(name, None)
        for name, one in model.named_parameters():
            one.requires_grad_(grads[name])
            one.grad = None
        model.eval()


@contextmanager
def edited(model: Any, edit: WeightEdit) -> Iterator[Any]:
    """A model with an edit beside its weights; it is the base again after the block.

    Raises:
        FitError: the edit is of another model.
    """
    from peft import PeftModel

    with tempfile.TemporaryDirectory() as place, as_before(model):
        edit.with_fingerprint(edit.base.fingerprint or _UNKNOWN).save(Path(place))
        try:
            tuned = PeftModel.from_pretrained(model, place).eval()
            loaded = tuned.load_adapter(place, adapter_name="default")
        except (RuntimeError, ValueError, KeyError) as error:
            raise FitError(
                f"the edit does not fit the model: {' '.join(str(error).split())[:300]}"
            ) from error
        try:
            lost = [key for key in loaded.missing_keys if "lora_" in key] + list(loaded.unexpected_keys)
            if lost:
                raise FitError(f"the edit is of another model: {lost[0]}")
            yield tuned
        finally:
            tuned.unload()


def taken_out(tuned: Any) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Content of ``adapter_config.json`` and the tensors of an adapter, as peft would write them.

    Raises:
        Diverged: a number in it is not finite.
    """
    with tempfile.TemporaryDirectory() as place:
        tuned.save_pretrained(place, save_embedding_layers=False)
        config = json.loads((Path(place) / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(Path(place) / ADAPTER_TENSORS)
    if bad := [name for name, one in tensors.items() if not bool(torch.isfinite(one).all())]:
        raise Diverged(f"the training diverged ({bad[0]} is not finite); lower learning_rate")
    # peft writes sets in whatever order they have in this process.
    ordered = {key: sorted(value) if key in _SETS and value else value for key, value in config.items()}
    return {**ordered, **dict.fromkeys(_ONLY_HERE)}, tensors


def as_edit(
    context: FitContext, method: str, config: Mapping[str, object], tensors: Mapping[str, Tensor]
) -> WeightEdit:
    """An adapter with what it was made from."""
    host = context.host
    base = BaseModelRef(host.architecture, host.model_type)
    return WeightEdit(method, base, context.seed, digest_of_rows(context.fit), config, tensors)


def _is_linear(part: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return type(part) in (nn.Linear, Conv1D)
