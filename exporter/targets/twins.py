"""Tiny twins of a base: built of its own config, or refused with what of the config cannot be cut."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

import torch

from exporter.errors import CompileError
from steer_modules.proof import random_twin
from steer_modules.twin import twin_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_LARGEST = 60_000_000
"""Weights of a twin; a larger one would not be tried in seconds."""
_PATIENCE = 10.0
"""Seconds in which the attribute is looked for that cannot be cut alone."""


def small_config(config: Any) -> Any:
    """The twin's config; raises CompileError where there can be none."""
    try:
        small = twin_config(config)
    except Exception as error:
        raise _no_twin(config, error) from error
    small.architectures, small.dtype = list(config.architectures), torch.float32
    return small


def built(
    config: PretrainedConfig, small: PretrainedConfig, stock: type[PreTrainedModel], inputs: dict[str, Any]
) -> Any:
    """A twin that answers ``inputs``, of the stock class.

    Raises:
        CompileError: it cannot be built or does not answer; the attribute is named that cannot be cut alone.
    """
    _check_size(config, small, stock)
    try:
        twin = random_twin(stock, small)
        twin(**inputs)
    except Exception as error:
        raise _no_twin(config, error, _culprit(config, small, stock, inputs)) from error
    return twin


def _check_size(config: PretrainedConfig, small: PretrainedConfig, stock: type[PreTrainedModel]) -> None:
    """Raises CompileError where cutting left a model that is not tiny; names what is large."""
    try:
        with torch.device("meta"):
            shapes = {name: tuple(p.shape) for name, p in stock(copy.deepcopy(small)).named_parameters()}
    except Exception:  # noqa: BLE001 - what cannot be built on no device may yet be built
        return
    sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    if sum(sizes.values()) > _LARGEST:
        name = max(sizes, key=lambda one: sizes[one])
        raise _no_twin(
            config,
            ValueError(
                f"it would have {sum(sizes.values()):,} weights, most of them in {name} {list(shapes[name])}"
            ),
        )


def _no_twin(config: PretrainedConfig, error: Exception, culprit: str | None = None) -> CompileError:
    reason = " ".join(str(error).split())[:300]
    why = reason if type(error) is ValueError else f"{type(error).__name__}: {reason}"
    named = f" (without cutting {culprit}, it could be built)" if culprit else ""
    return CompileError(
        f"models of type {config.model_type!r} cannot be steered: no tiny twin can be built from this config{named} to test it: {why}"
    )


def _culprit(
    config: PretrainedConfig, small: PretrainedConfig, stock: type[PreTrainedModel], inputs: dict[str, object]
) -> str | None:
    """The attribute of a config that is coupled to others, so that it cannot be cut alone; None where it is not one alone."""
    whole, cut = config.get_text_config(decoder=True), small.get_text_config(decoder=True)
    until = time.monotonic() + _PATIENCE
    for name in sorted(set(vars(whole)) & set(vars(cut))):
        before, after = vars(whole)[name], vars(cut)[name]
        if name.startswith("_") or before == after or not isinstance(before, int | list):
            continue
        tried = copy.deepcopy(small)
        setattr(tried.get_text_config(decoder=True), name, copy.deepcopy(before))
        if time.monotonic() > until:
            return None
        if _answers(stock, tried, inputs):
            return f"{name} = {str(before)[:60]}"
    return None


def _answers(stock: type[PreTrainedModel], small: PretrainedConfig, inputs: dict[str, object]) -> bool:
    try:
        random_twin(stock, small)(**inputs)
    except Exception:  # noqa: BLE001 - any way of not being built will do
        return False
    return True
