"""A base with adapters merged into its weights, as one plain base: what is fitted and what is compiled are then the same model."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from exporter.atomic import write_json
from exporter.bin_weights import copy_beside
from exporter.errors import CompileError, InputErrors
from exporter.host import ModelHost
from exporter.model_folder import read_object
from exporter.usable_base import ADAPTER

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MERGEABLE = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "VERA")
"""Kinds of peft that change weights, and nothing else."""
_NOT_WEIGHTS = {
    "alora_invocation_tokens": "it is active only after certain tokens",
    "arrow_config": "it chooses among experts by its input",
    "layer_replication": "it repeats layers",
    "megatron_config": "it names a Megatron module to import",
    "use_qalora": "it is made for packed (quantised) weights",
}
"""Settings of an adapter that no weight of the base can hold, and why."""
_TOLERANCE = 1e-3
"""Of the largest logit: how far the merged model may lie from base and adapter, both in float32."""
_PROBE = (4, 24)
"""Rows and tokens on which the two are compared."""


def why_not_mergeable(folder: Path) -> str | None:
    """Why an adapter cannot become weights of its base, in one sentence; None for one that may. Reads JSON alone."""
    path = folder / ADAPTER
    if not path.is_file():
        return f"{folder} has no {ADAPTER}; name the folder that peft's save_pretrained wrote"
    try:
        config = read_object(path, strict=False)
    except CompileError as error:
        return str(error)
    if not any((folder / f"adapter_model{suffix}").is_file() for suffix in (".safetensors", ".bin")):
        return f"{folder} has no adapter_model.safetensors; fetch the adapter again"
    kind = str(config.get("peft_type"))
    if kind not in MERGEABLE:
        return f"{folder} is an adapter of kind {kind}, which does not change weights; only {', '.join(MERGEABLE)} can be merged"
    reason = next((text for key, text in _NOT_WEIGHTS.items() if config.get(key)), None)
    if reason is not None:
        return f"{folder} cannot be merged, because {reason}"
    task = config.get("task_type")
    if task not in (None, "CAUSAL_LM", "CONDITIONAL_GENERATION", "SEQ_2_SEQ_LM"):
        return f"{folder} was trained for {task}, not to generate text"
    return None


def merge(base: Path, adapters: Sequence[Path], folder: Path) -> None:
    """Writes into ``folder`` the base with adapters merged into its weights, one after the other.

    Merged in float32, and rounded once to the dtype that each weight of the base has.

    Args:
        folder: is there and empty.

    Raises:
        InputErrors: an adapter is of another model, is damaged, or does not change weights.
        CompileError: the merged model does not answer as base and adapter do, so it cannot be written exactly.
    """
    if reasons := [reason for reason in map(why_not_mergeable, adapters) if reason is not None]:
        raise InputErrors("base.adapters", reasons)
    stored = ModelHost.load(base, processor=object()).model
    dtypes = {name: tensor.dtype for name, tensor in stored.state_dict().items()}
    del stored
    model = ModelHost.load(base, dtype=torch.float32, processor=object()).model
    tied = _is_tied(model)
    for adapter in adapters:
        model = _merged(model, adapter)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        tensor.data = tensor.data.to(dtypes.get(name, tensor.dtype))
    model.save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        (folder / name).unlink(missing_ok=True)
    copy_beside(base, folder)
    if tied and not _is_tied(model):
        _part_head(folder)
    _check_written(model, folder, adapters)


def _merged(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """A float32 model with one adapter in its weights; raises where it does not answer as with the adapter beside."""
    from peft import PeftModel

    ids = _probe(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say of missing tensors is asked for below
            tuned = PeftModel.from_pretrained(model, str(adapter)).eval()
            loaded = tuned.load_adapter(str(adapter), adapter_name="default")
    except (
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OSError,
        ImportError,
        pickle.UnpicklingError,
    ) as error:
        message = " ".join(str(error).split())[:300]
        raise InputErrors("base.adapters", [f"{adapter} does not fit the base: {message}"]) from error
    prefix = getattr(tuned.base_model, "prefix", "lora_")
    lost = sorted(key for key in loaded.missing_keys if prefix in key or "modules_to_save" in key)
    odd = sorted(loaded.unexpected_keys)
    if lost or odd:
        what = f"lacks {lost[0]}" if lost else f"contains {odd[0]}, which the base does not have"
        raise InputErrors("base.adapters", [f"{adapter} was made for another model: it {what}"])
    wanted, tied = _logits(tuned, ids), _is_tied(model)
    merged = tuned.merge_and_unload(safe_merge=True).eval()
    off = float((_logits(merged, ids) - wanted).abs().max())
    if not off <= _TOLERANCE * max(1.0, float(wanted.abs().max())):
        reason = (
            "; input and output embeddings share one weight, and the adapter changes only one of them"
            if tied
            else ""
        )
        raise CompileError(
            f"{adapter} cannot be merged exactly: the merged model's logits differ from those of base and adapter by up to {off:.3g}{reason}"
        )
    return merged


def _is_tied(model: PreTrainedModel) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _part_head(folder: Path) -> None:
    """Records in config.json that a head trained by an adapter is no longer tied to the embeddings; some loaders would tie it again."""
    path = folder / "config.json"
    config = read_object(path, strict=False)
    config["tie_word_embeddings"] = False
    if isinstance(config.get("text_config"), dict):
        config["text_config"]["tie_word_embeddings"] = False
    write_json(path, config, indent=2, finite=False)


def _check_written(model: PreTrainedModel, folder: Path, adapters: Sequence[Path]) -> None:
    """Raises CompileError where what is read from the folder again is not what was merged, as where the config ties what an adapter parted."""
    wanted: Mapping[str, Tensor] = model.state_dict()
    read = ModelHost.load(folder, processor=object()).model.state_dict()
    wrong = sorted(
        name for name in wanted.keys() | read.keys() if not _same(wanted.get(name), read.get(name))
    )
    if wrong:
        raise CompileError(
            f"{', '.join(map(str, adapters))} cannot be merged exactly: {wrong[0]} changes when the merged model is saved and loaded, "
            "because config.json ties it to another weight or does not describe it"
        )


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return (
        one is not None
        and other is not None
        and one.shape == other.shape
        and torch.equal(one, other.to(one.dtype))
    )


def _probe(model: PreTrainedModel) -> Tensor:
    """Token ids int64 [4, 24] without those of images and their kind, the same for the same vocabulary."""
    config = model.config.to_dict()
    special = {
        value
        for key, value in config.items()
        if key.endswith(("token_id", "token_index")) and isinstance(value, int)
    }
    plain = [one for one in range(int(model.config.get_text_config().vocab_size)) if one not in special]
    chosen = torch.randint(0, len(plain), _PROBE, generator=torch.Generator().manual_seed(0))
    return torch.tensor(plain)[chosen]


def _logits(model: Any, ids: Tensor) -> Tensor:
    """Logits [4, 24, V] of one pass over text alone."""
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
