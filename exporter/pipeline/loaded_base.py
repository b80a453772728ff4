"""Why a model that is in memory already cannot be fitted or steered as it is, each reason with what to do."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from torch import Tensor

from exporter.errors import InputErrors
from exporter.reader import loaded_config
from exporter.steerable import why_unsteerable
from exporter.targets.checkpoint import prove_family
from exporter.usable_base import why_quantised
from steer_modules.steered_model import SteeredModelMixin
from steer_modules.weights import same_values

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_OVERRIDDEN = ("forward", "generate", "__call__")
_OF_A_RUN = ("training", "gradient_checkpointing", "max_seq_len_cached")
"""Numbers of a module that say how it is run, not what it computes."""
ORIGINAL = "load the model in its original weights, without a quantization_config"


def refuse_loaded(model: object) -> None:
    """Raises InputErrors with everything that keeps a loaded model from being fitted or steered as it is."""
    if reasons := why_no_base(model):
        raise InputErrors(f"the loaded {type(model).__name__}", reasons)


def prove_loaded(model: Any) -> None:
    """Tries a tiny twin of a loaded model; raises CompileError where its family cannot be steered, before anything is fitted."""
    prove_family(loaded_config({**model.config.to_dict(), "architectures": [type(model).__name__]}))


def why_no_base(model: object) -> list[str]:
    """Why a loaded model cannot be steered as it is, one sentence a reason, each with what to do; nothing for one that can."""
    if not isinstance(model, torch.nn.Module):
        return [
            f"a {type(model).__name__} is not a model; load one with AutoModelForCausalLM or AutoModelForImageTextToText"
        ]
    if isinstance(model, SteeredModelMixin):
        return ["it is already steered; call unsteer(model), or load its base"]
    if reason := _adapted(model) or _quantised(model):
        return [reason]
    if reason := _foreign_class(model) or why_unsteerable(model.config):
        return [reason]
    reasons = [*_other_class(model), *_changed_parts(model), *_not_in_memory(model)]
    return reasons or [*_changed_buffers(model)]


def _adapted(model: torch.nn.Module) -> str | None:
    from_peft = any(type(part).__module__.partition(".")[0] == "peft" for part in model.modules())
    if not from_peft and not getattr(model, "_hf_peft_config_loaded", False):
        return None
    return (
        "it contains a peft adapter, and a checkpoint needs plain weights; merge it: model = model.merge_and_unload() on the PeftModel, "
        "model.save_pretrained(FOLDER), and load FOLDER"
    )


def _quantised(model: Any) -> str | None:
    config = getattr(model, "config", None)
    if config is not None and (reason := why_quantised(config.to_dict())):
        return f"{reason}; {ORIGINAL}"
    packed = [
        name
        for name, one in model.named_parameters()
        if type(one) is not torch.nn.Parameter or not one.is_floating_point() or one.dtype.itemsize < 2
    ]
    if not packed and getattr(model, "hf_quantizer", None) is None:
        return None
    shown = f" ({packed[0]} is not a plain floating-point tensor)" if packed else ""
    return f"its weights are quantised{shown}, and gates fitted on them do not fit the original weights; {ORIGINAL}"


def _foreign_class(model: object) -> str | None:
    name = type(model).__name__
    if getattr(transformers, name, None) is type(model):
        return None
    return (
        f"its class {type(model).__module__}.{name} is not a Transformers class (compiled, wrapped, or code of a repository); load the "
        "model with AutoModelForCausalLM or AutoModelForImageTextToText"
    )


def _other_class(model: Any) -> Iterator[str]:
    named = model.config.architectures
    if named and type(model).__name__ not in named:
        yield (
            f"its config names the class {', '.join(named)}, but it is a {type(model).__name__}, parts of which may be initialised at "
            "random; load the class that the config names, or save this model with save_pretrained and load the saved folder"
        )


def _changed_parts(model: Any) -> Iterator[str]:
    """Modules that its class does not have, and functions put in place of its own: steering would be led past them."""
    plain = dict(blank(model, model.config).named_modules())
    own = {name: type(part) for name, part in plain.items()}
    found = {name: type(part) for name, part in model.named_modules()}
    if other := sorted(name for name in own.keys() | found.keys() if own.get(name) is not found.get(name)):
        kind = getattr(found.get(other[0]), "__name__", "missing")
        yield f"its module {other[0]} is {kind}, which a {type(model).__name__} does not have there; load the model as it was saved"
    for name, part in model.named_modules():
        numbers = _numbers(plain[name]) if name in plain else {}
        if changed := [key for key, value in _numbers(part).items() if numbers.get(key, value) != value]:
            yield (
                f"{name}.{changed[0]} is {getattr(part, changed[0])}, but its config sets {numbers[changed[0]]}, which a checkpoint would "
                "use; set it in the config, or load the model as it was saved"
            )
        hooks = [*part._forward_pre_hooks.values(), *part._forward_hooks.values()]
        if "forward" in vars(part) and part is not model:
            yield f"the forward method of its module {name} was replaced, which a checkpoint cannot store; load the model as it was saved"
        elif any(not str(getattr(one, "__module__", "")).startswith("transformers.") for one in hooks):
            yield f"its module {name or type(model).__name__} has a hook, which a checkpoint cannot store; remove it (handle.remove())"
    if put := [name for name in _OVERRIDDEN if name in vars(model)]:
        yield (
            f"its {put[0]} was replaced (by torch.compile, or by accelerate for a device_map over several devices), which would bypass "
            "the steering; load the model without either, onto one device"
        )


def _numbers(part: torch.nn.Module) -> dict[str, object]:
    """What a module computes with beside tensors: scales, epsilons."""
    return {
        key: value
        for key, value in vars(part).items()
        if isinstance(value, int | float | np.generic) and key not in _OF_A_RUN and not key.startswith("_")
    }


def _not_in_memory(model: Any) -> Iterator[str]:
    away = [name for name, one in model.named_parameters() if one.device.type == "meta"]
    if away:
        yield f"{away[0]} is not in memory (offloaded); load the complete model onto one device"


def _changed_buffers(model: Any) -> Iterator[str]:
    """Buffers that are computed from the config and saved nowhere, as the frequencies of RoPE."""
    plain = blank(model, model.config)
    loaded = dict(model.named_modules())
    for path, part in plain.named_modules():
        unsaved = {
            name: torch.full(one.shape, torch.nan, dtype=one.dtype)
            for name, one in part.named_buffers(recurse=False)
            if name in part._non_persistent_buffers_set and one.is_floating_point()
        }
        if not unsaved or path not in loaded:
            continue
        part._buffers.update(unsaved)
        with torch.no_grad():
            plain._init_weights(part)
        for name, wanted in part.named_buffers(recurse=False):
            known = name in unsaved and not bool(wanted.isnan().any())  # what the class itself computes anew
            found = getattr(loaded[path], name, None)
            if known and isinstance(found, Tensor) and not same_values(wanted, found.cpu()):
                yield (
                    f"{path}.{name} is not what its config makes it, and no checkpoint can have that; set it in the config, or load the "
                    "model as it was saved"
                )


def blank(model: PreTrainedModel, config: PretrainedConfig) -> Any:
    """A model of the same class without weights."""
    with torch.device("meta"):
        return type(model)(copy.deepcopy(config))
