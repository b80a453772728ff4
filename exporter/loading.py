"""Loads a model only if the folder has every weight of it: Transformers initialises missing weights at random and continues."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from exporter.errors import InputErrors
from exporter.usable_base import adapter_beside

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOG = logging.getLogger(__name__)
_SHOWN = 3
_BUFFERS = re.compile(r"(^|\.)(masked_bias|rotary_emb\.inv_freq|position_ids|num_batches_tracked)$")
"""Tensors of older files that models compute for themselves by now."""


def loaded_whole(family: Any, path: str | Path, **options: Any) -> Any:
    """``family.from_pretrained``, refused where the model in memory would not be the one on disk.

    Args:
        family: an Auto class of Transformers.
        options: of ``from_pretrained``.

    Returns:
        The model; every parameter of it comes from the files, or is tied to one that does.

    Raises:
        InputErrors: tensors by name that are missing, of another shape, or not used by the model; an adapter beside the weights; or a
            package that is not installed, with the line that installs it.
    """
    beside = adapter_beside(Path(path)) if Path(path).is_dir() else None
    if beside is not None:
        raise InputErrors(str(path), [beside])
    try:
        # Other shapes pass here and are reported by name below.
        model, info = family.from_pretrained(
            path, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except ImportError as error:
        raise InputErrors(
            str(path), [f"cannot be loaded without a further package: {_line(error)}"]
        ) from error
    except RuntimeError as error:
        if "automatic conversion of the weights" not in str(error):
            raise
        reason = "Transformers cannot read its weights for this architecture; download the model again"
        raise InputErrors(str(path), [reason]) from error
    if faults := loading_faults(model, info):
        raise InputErrors(str(path), faults)
    return model


def loading_faults(model: PreTrainedModel, info: Mapping[str, Collection[Any]]) -> list[str]:
    """What makes a loaded model another one than its files hold, one sentence each.

    Args:
        info: ``missing_keys``, ``mismatched_keys`` and ``unexpected_keys``, as ``from_pretrained`` returns them.
    """
    faults = []
    if getattr(model, "_hf_peft_config_loaded", False):
        faults.append(
            "the folder contains an adapter_config.json, and Transformers applied the adapter; list it under base.adapters"
        )
    named = getattr(model.config, "architectures", None)
    if named and type(model).__name__ not in named:
        faults.append(
            f"config.json names the class {', '.join(named)}, but the class that generates text is {type(model).__name__}; give the "
            "folder of such a model"
        )
    missing = sorted({*info["missing_keys"], *_silently_missing(model, info)})
    if missing:
        faults.append(
            f"{_named(missing)} missing from the weights and would be initialised at random; download the model again, or give the folder "
            "of a complete model of this architecture"
        )
    mismatched = sorted(str(one[0]) for one in info["mismatched_keys"])
    if mismatched:
        faults.append(
            f"{_named(mismatched)} of another shape than config.json states; one of the two belongs to another model"
        )
    unused = sorted(info["unexpected_keys"])
    dropped = [key for key in unused if _matters(model, key)]
    if dropped:
        faults.append(
            f"{_named(dropped)} in the weights and not used by {type(model).__name__}, so the loaded model is not the one that was "
            "trained; correct config.json, or give the folder of an unmodified model"
        )
    elif unused:
        LOG.info("%s not used: %s", type(model).__name__, ", ".join(unused[:_SHOWN]))
    return faults


def _silently_missing(model: PreTrainedModel, info: Mapping[str, Collection[object]]) -> Iterator[str]:
    """Parameters that Transformers does not report as missing, and that still have their initial values.

    ``_keys_to_ignore_on_load_missing`` hides their names, so the names in the files are asked.
    """
    hidden = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    if not hidden:
        return
    pattern = re.compile("|".join(f"({one})" for one in hidden))
    read = _names_on_disk(model)
    for name, _ in model.named_parameters():
        if (
            pattern.search(name)
            and name not in info["missing_keys"]
            and read is not None
            and not _is_among(name, read)
        ):
            yield name


def _names_on_disk(model: object) -> frozenset[str] | None:
    """Names of the tensors in the safetensors files of a local model; None for one from elsewhere."""
    from safetensors import safe_open

    folder = Path(str(getattr(model, "name_or_path", "")))
    shards = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not shards:
        return None
    names: set[str] = set()
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            names.update(file.keys())
    return frozenset(names)


def _is_among(name: str, read: Collection[str]) -> bool:
    """Whether a tensor of this name was read, under this name or with another prefix."""
    return any(name == one or name.endswith(f".{one}") or one.endswith(f".{name}") for one in read)


def _matters(model: nn.Module, key: str) -> bool:
    """Whether a tensor that the model does not use belongs into a part that it has.

    That is a block more than the config says, or a tensor more in a block or a layer (a bias, an adapter, a quantiser's scale). A part
    that stands beside (a value head, a head of a tower) changes nothing of what the model computes, and a buffer is computed anew.
    """
    buffers = [name for name, _ in model.named_buffers()]
    if _BUFFERS.search(key) or any(name == key or name.endswith(f".{key}") for name in buffers):
        return False
    modules = dict(model.named_modules())
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    owner = next(place for place in _places(key) if place in modules or f"{prefix}{place}" in modules)
    if not owner:
        return False
    found = owner if owner in modules else f"{prefix}{owner}"
    in_blocks = any(isinstance(modules.get(place), nn.ModuleList) for place in (found, *_places(found)))
    return in_blocks or any(True for _ in modules[found].parameters(recurse=False))


def _places(key: str) -> Iterator[str]:
    """The paths that lead to a tensor, the longest first, down to the empty one of the model itself."""
    while key:
        key = key.rpartition(".")[0]
        yield key


def _named(keys: list[str]) -> str:
    """Some of the names, and how many more; with the verb."""
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{', '.join(keys[:_SHOWN])}{more} {'is' if len(keys) == 1 else 'are'}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
