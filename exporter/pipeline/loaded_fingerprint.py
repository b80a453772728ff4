"""The fingerprint of a model that is in memory already, so that what is fitted on it compiles for its folder, and for no other.

It is that of files: of those that the model was loaded from, where they hold just its weights, else of those that its
``save_pretrained`` would write.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from exporter.errors import InputErrors, SteerbakeError
from exporter.model_folder import read_object
from exporter.pipeline.bases import with_safetensors
from exporter.pipeline.loaded_base import blank
from exporter.reader import loaded_config
from exporter.targets.base_weights import BaseWeights
from steer_modules.fingerprint import as_saved, memory_fingerprint

LOG = logging.getLogger(__name__)
_NO_MATTER = ("_token_id", "_implementation", "_implementation_internal")
_NO_MATTERS = frozenset(
    [
        "_name_or_path",
        "_commit_hash",
        "transformers_version",
        "dtype",
        "torch_dtype",
        "architectures",
        "use_cache",
        "return_dict",
        "problem_type",
        "id2label",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "chunk_size_feed_forward",
        "name_or_path",
        "is_encoder_decoder",
    ]
)
"""Settings that change nothing of what a decoder computes for given tokens."""


def fingerprint_of(model: PreTrainedModel) -> str:
    """The fingerprint that the folder of a loaded model has: see the module's docstring.

    Raises:
        InputErrors: its settings are not those of its folder, or its weights are others that have the same fingerprint.
    """
    held = as_saved(model)
    own = memory_fingerprint(held)
    with weights_of(model) as weights:
        if weights is None:
            return own
        other, stored = _first_difference(held, weights), weights.fingerprint()
        where = f"the loaded {type(model).__name__} and {weights.folder}"
        if other is None:
            if keys := _other_settings(model, weights.folder):
                message = (
                    f"{', '.join(keys[:3])} of its config differ from config.json, so it is another model; save it with save_pretrained, "
                    "and load the saved folder"
                )
                raise InputErrors(where, [message])
            return stored
        if own == stored:
            message = (
                f"{other} was changed in a place that the fingerprint does not cover; save the model with save_pretrained, and load the "
                "saved folder"
            )
            raise InputErrors(where, [message])
        LOG.warning(
            "warning: %s of the loaded model differs from %s; compile from the folder that its save_pretrained writes",
            other,
            weights.folder,
        )
        return own


@contextmanager
def weights_of(model: Any) -> Iterator[BaseWeights | None]:
    """The weights that a model was loaded from, on this machine; None where there are none to be found."""
    name = str(getattr(model, "name_or_path", "") or "")
    folder = Path(name) if name and Path(name).is_dir() else _cached(name, model.config)
    with ExitStack() as stack:
        weights = None
        if folder is not None:
            scratch = Path(stack.enter_context(TemporaryDirectory(prefix="steerbake-")))
            with suppress(SteerbakeError):
                weights = BaseWeights.read(stack.enter_context(with_safetensors(folder, scratch)))
        yield weights


def _cached(name: str, config: object) -> Path | None:
    if not name or name.startswith((".", "/")):
        return None
    try:
        found = try_to_load_from_cache(
            name, "config.json", revision=getattr(config, "_commit_hash", None) or "main"
        )
    except ValueError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _first_difference(held: Mapping[str, Tensor], weights: BaseWeights) -> str | None:
    """The first tensor that the files do not hold, cast to the type that it has in memory; None where they hold all, whole."""
    for shard in weights.shards:
        with safe_open(weights.folder / shard, framework="pt") as file:
            for name, tensor in held.items():
                stored = weights.tensors.get(name)
                if stored is None or stored.shape != tuple(tensor.shape):
                    return name
                if stored.shard != shard:
                    continue
                if not torch.equal(file.get_tensor(name).to(tensor.dtype), tensor.detach().cpu()):
                    return name
    return None


def _other_settings(model: Any, folder: Path) -> list[str]:
    """Keys of a model's config that config.json would make another of it."""
    stored = blank(model, loaded_config(read_object(folder / "config.json", strict=False))).config
    return sorted(_different(model.config.to_dict(), stored.to_dict()))


def _different(ours: Mapping[str, object], theirs: Mapping[str, object], place: str = "") -> Iterator[str]:
    for key in ours.keys() | theirs.keys():
        one, other = ours.get(key), theirs.get(key)
        if key in _NO_MATTERS or key.endswith(_NO_MATTER) or one == other:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _different(one, other, f"{place}{key}.")
        else:
            yield f"{place}{key}"
