"""Whether the weights are those that the steering was fitted on, by names, dtypes, shapes and the first bytes of each tensor.

Steering fitted on one set of weights is not valid for another: fine-tuned or quantised weights change the states that gates read.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from .files import weight_files
from .parts import other_part, parts
from .program import program_sha256
from .settings import changed_setting, remember_settings, unlike_compiled, why_other_settings
from .weights import Sample

STEERING = "steering"
"""Name of the part of a model that is no weight of its base."""
SAMPLE = 4096
"""Bytes of each tensor that enter the fingerprint."""
_LONGEST_HEADER = 100_000_000
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""As safetensors spells them."""
_CHANGING = ("quantization_config", "state_dict", "gguf_file", "key_mapping", "load_in_8bit", "load_in_4bit")
"""Options of from_pretrained that load other weights than those in the files."""


class _Entry(NamedTuple):
    shard: Path
    label: str
    start: int
    size: int


def files_fingerprint(shards: Mapping[str, Path], names: Mapping[str, str] | None) -> str:
    """``sha256:`` + hex over the tensors that are no steering, by name: the name, ``BF16[2,3]``, the first 4096 bytes.

    Args:
        shards: file by shard name.
        names: shard name by tensor, as an index has it; None: every tensor of the shards.

    Raises:
        RuntimeError: a shard is no whole safetensors file, lacks a tensor that the index names, or holds one that the index does not place in it:
            Transformers loads every tensor of every shard, so it would stand in for the one that is fingerprinted.
    """
    entries: dict[str, _Entry] = {}
    for shard, path in shards.items():
        for name, entry in _entries(path):
            if names is not None and names.get(name) != shard:
                raise RuntimeError(
                    f"{path} holds {name!r}, which the index does not place in it, and which would be loaded in place of the model's own"
                )
            entries[name] = entry
    lost = sorted(set(names or ()) - set(entries))
    if lost:
        raise RuntimeError(f"the index lists {lost[0]!r}, which is not in its shard")
    digest = hashlib.sha256()
    handles = {path: path.open("rb") for path in shards.values()}
    try:
        for name in sorted(entries):
            if name.startswith("steering."):
                continue
            entry = entries[name]
            digest.update(f"{name}{entry.label}".encode())
            handles[entry.shard].seek(entry.start)
            digest.update(handles[entry.shard].read(min(SAMPLE, entry.size)))
    finally:
        for handle in handles.values():
            handle.close()
    return f"sha256:{digest.hexdigest()}"


def _entries(path: Path) -> Iterator[tuple[str, _Entry]]:
    """Every tensor of a safetensors file with its place."""
    try:
        with path.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            if not 2 <= length <= min(_LONGEST_HEADER, path.stat().st_size - 8):
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(handle.read(length))
        for name, told in header.items():
            if name != "__metadata__":
                shape = ",".join(str(int(size)) for size in told["shape"])
                start, stop = (8 + length + int(offset) for offset in told["data_offsets"])
                yield name, _Entry(path, f"{told['dtype']}[{shape}]", start, stop - start)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
        raise RuntimeError(f"{path} is not a valid safetensors file: {error}") from error


def check_base(
    model: PreTrainedModel, source: str | os.PathLike[str] | None, options: Mapping[str, object]
) -> None:
    """Raises RuntimeError where a checkpoint's weights are not those that its steering was made for."""
    why = _why_other(model, source, options)
    if why is None:
        remember(model)
        return
    raise RuntimeError(
        f"{source} is not loaded: {why}, so gates may not fire. If this is intended, pass allow_changed_base=True: the "
        "program's canary is then tested instead"
    )


def _why_other(
    model: PreTrainedModel, source: str | os.PathLike[str] | None, options: Mapping[str, object]
) -> str | None:
    """What of a loaded checkpoint is not what its steering was made for; None where all is."""
    changing = [name for name in _CHANGING if options.get(name)]
    if getattr(model, "hf_quantizer", None) is not None:
        changing.append("quantization")
    if changing or source is None:
        return f"{(changing or ['no folder'])[0]} loads other weights than the steering was fitted on"
    wanted = model.config.steering["base"].get("fingerprint")
    found = files_fingerprint(*weight_files(source, options))
    if found != wanted:
        return f"its weights differ from those the steering was fitted on (fingerprint {found}, not {wanted})"
    return why_other_settings(model.config, source, options)


def remember(model: PreTrainedModel) -> None:
    """Takes down which weights, settings and modules a model has now, those that its steering was made for: :func:`check_memory` holds it to them."""
    model.__dict__["_loaded_weights"] = Sample.of(model, without=STEERING)
    model.__dict__["_loaded_parts"] = parts(model, without=STEERING)
    remember_settings(model)


def forget(model: PreTrainedModel) -> None:
    """Undoes :func:`remember`, for a model that is steered no more."""
    for name in ("_loaded_weights", "_loaded_parts", "_loaded_settings", "_changed_base", "_asking_canary"):
        model.__dict__.pop(name, None)


def changed_tensor(model: PreTrainedModel) -> str | None:
    """The name of a tensor that is not the one that was loaded and checked; None where all are, and where nothing was checked."""
    known: Sample | None = model.__dict__.get("_loaded_weights")
    if known is None:
        return None
    now = Sample.of(model, without=STEERING)
    changed = known.changed(now)
    if changed is None and now.entries != known.entries:
        model.__dict__["_loaded_weights"] = now  # cast or moved: compared as it is from now on
    return changed


def changed_part(model: PreTrainedModel) -> str | None:
    """The name of a module, or of a number or function that it holds, that is another than when the model was loaded; None where none is."""
    known = model.__dict__.get("_loaded_parts")
    return None if known is None else other_part(known, parts(model, without=STEERING))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def check_memory(model: PreTrainedModel) -> None:
    """Raises RuntimeError where a model that is to answer has other weights than those that were loaded and checked.

    A pass that trains (training mode, with gradients) may run on whatever the steps before made of the weights; a model that was changed
    on purpose says so (``accept_changed_base``), and is held to those weights from then on.
    """
    trains = model.training and torch.is_grad_enabled()
    if trains or model.__dict__.get("_asking_canary", False):
        return
    if "_loaded_weights" not in model.__dict__:
        _check_filled(model)
    why = None
    if changed := changed_tensor(model):
        why = (
            f"the weights of this model changed since it was loaded ({changed}: trained, merged, given an adapter, or offloaded; "
            "device_map is for from_pretrained)"
        )
    elif changed := changed_part(model):
        why = f"{changed} of this model is not what it was when it was loaded (a number or a function that a module holds, or the module itself)"
    elif changed := changed_setting(model):
        why = f"{changed} of this model was changed since it was loaded"
    if why is not None:
        raise RuntimeError(
            f"{why}, so gates may not fire. If this is intended, call model.accept_changed_base(): the program's canary is then tested"
        )


def _check_filled(model: PreTrainedModel) -> None:
    """For a model that from_pretrained did not load, as one that was built from its config and filled since."""
    wanted = model.steering.section["base"].get("fingerprint")  # type: ignore[union-attr, index]
    found = memory_fingerprint(as_saved(model))
    why = unlike_compiled(model.config)
    if why is not None:
        why = f"{why} is not what it was when the steering was compiled"
    elif found != wanted:
        why = f"its weights are not those the steering was fitted on (fingerprint {found}, not {wanted})"
    if why is not None:
        raise RuntimeError(
            f"this model was not loaded by from_pretrained, and {why}, so gates may not fire. Load it with from_pretrained; if these weights are intended, call "
            "model.accept_changed_base(): the program's canary is then tested"
        )
    remember(model)


def as_saved(model: PreTrainedModel) -> dict[str, Tensor]:
    """A model's tensors under the names, and in the shapes, in which its ``save_pretrained`` writes them."""
    tensors: dict[str, Tensor] = dict(model.state_dict())
    for name in model._keys_to_ignore_on_save or ():
        tensors.pop(name, None)
    found: dict[str, Tensor] = revert_weight_conversion(
        model, remove_tied_weights_from_state_dict(tensors, model)
    )
    return found


def memory_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """:func:`files_fingerprint` of tensors in memory, by the names under which they would be saved."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if name.startswith("steering."):
            continue
        tensor = tensors[name].detach()
        label = f"{_DTYPES.get(tensor.dtype, tensor.dtype)}[{','.join(map(str, tensor.shape))}]"
        digest.update(f"{name}{label}".encode())
        few = tensor.reshape(-1)[: SAMPLE // tensor.dtype.itemsize].cpu().contiguous()
        digest.update(few.view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def sign_saved(folder: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Writes the fingerprint of a saved folder's own weights into its section, and signs it again.

    For weights that are what was loaded and checked, written in another dtype or under other names.
    """
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    section = config["steering"]
    section["base"]["fingerprint"] = files_fingerprint(*weight_files(str(folder), {}))
    section["sha256"] = program_sha256(section, tensors)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
