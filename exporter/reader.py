"""What a model is fed by: its processor, or its tokenizer where it reads text alone. Its config decides, not the files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from exporter.errors import InputErrors

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase, ProcessorMixin

Processor: TypeAlias = "ProcessorMixin | PreTrainedTokenizerBase"

_CLASS_TOKEN = ("clip_vision_model",)
"""Vision towers that put one feature more before those of the patches."""


def takes_images(config: object) -> bool:
    """Whether a model of this loaded config reads images."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    remote = getattr(config, "auto_map", None) or {}
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING or "AutoModelForImageTextToText" in remote


def loaded_config(settings: Mapping[str, Any]) -> PretrainedConfig:
    """The config that Transformers makes of a stock model's config.json, with the defaults which that leaves out.

    A file may name what differs from the class's defaults alone, as that of llava-1.5 does; its keys tell nothing by not being there.

    Raises:
        InputErrors: the settings are of no model type that is known, or do not fit it.
    """
    from transformers import CONFIG_MAPPING

    kind = str(settings.get("model_type"))
    try:
        return CONFIG_MAPPING[kind].from_dict(deepcopy(dict(settings)))
    except Exception as error:  # the configs' own checks raise anything
        raise InputErrors("config.json", [f"config.json is not a valid {kind} config: {error}"]) from error


def open_reader(
    folder: str | Path,
    config: PretrainedConfig | None = None,
    *,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Any:
    """The processor, or the tokenizer, of the model in a folder.

    A text model may name a processor of its family's larger members (``google/gemma-3-1b-it`` does); it is read by its tokenizer.

    Args:
        config: the model's, where it is loaded already.

    Raises:
        InputErrors: there is no config, or nothing that can be read by it.
    """
    import transformers

    common: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision}
    try:
        if config is None:
            config = transformers.AutoConfig.from_pretrained(folder, **common)
        sees = takes_images(config)
        found = (transformers.AutoProcessor if sees else transformers.AutoTokenizer).from_pretrained(
            folder, **common
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        what = "processor" if config is not None and takes_images(config) else "tokenizer"
        raise InputErrors(
            str(folder), [f"the {what} cannot be loaded: {_reason(error, Path(folder))}"]
        ) from error
    _complete(found, config)
    return found


def _reason(error: Exception, folder: Path) -> str:
    """Why nothing could be read; a sentencepiece file alone makes Transformers ask for the package of another format."""
    alone = folder.is_dir() and any(folder.glob("*.model")) and not (folder / "tokenizer.json").is_file()
    if alone and find_spec("sentencepiece") is None:
        return (
            "its only tokenizer file needs sentencepiece, which is not installed: pip install sentencepiece"
        )
    return str(error)


def _complete(processor: Any, config: PretrainedConfig) -> None:
    """Settings that processors of LLaVA did not have in their files at first, and cannot count image tokens without."""
    if getattr(processor, "patch_size", 0) is None:
        processor.patch_size = config.vision_config.patch_size
        if config.vision_config.model_type in _CLASS_TOKEN:
            processor.num_additional_image_tokens = 1
    if getattr(processor, "vision_feature_select_strategy", "") is None:
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
