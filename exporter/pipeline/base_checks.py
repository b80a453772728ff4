"""What of a base model can be known before it is loaded: whether it will compile, and what its tokenizer makes of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from exporter.errors import CompileError, SteerbakeError
from exporter.model_folder import read_object
from exporter.registry import check_family
from exporter.targets.base_weights import BaseWeights
from steer_modules.template import stock_classes

QUANTISERS = {
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "gptq": "gptqmodel",
    "torchao": "torchao",
}
"""The package that Transformers needs for a method of quantisation, by its name in ``quantization_config``."""


@dataclass(frozen=True)
class BaseFacts:
    """What config.json and the headers of the weights say.

    Attributes:
        config: content of config.json; empty where it cannot be read.
        weights: None where there are none that can be read.
        problems: one sentence each.
    """

    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    weights: BaseWeights | None = None
    problems: tuple[str, ...] = ()

    @property
    def model_type(self) -> str | None:
        found = self.config.get("model_type")
        return found if isinstance(found, str) else None

    def size(self, *names: str) -> int | None:
        """A size by the first of several names that the config (of the decoder) knows it under; None where none is there."""
        text = self.config.get("text_config")
        for place in (text if isinstance(text, dict) else {}, self.config):
            for name in names:
                if type(place.get(name)) is int:
                    return int(place[name])
        return None

    @property
    def layers(self) -> int | None:
        return self.size("num_hidden_layers", "n_layer", "num_layers")

    @property
    def width(self) -> int | None:
        return self.size("hidden_size", "n_embd", "d_model")

    @property
    def parameters(self) -> int:
        """How many numbers the weights hold."""
        if self.weights is None:
            return 0
        total = 0
        for tensor in self.weights.tensors.values():
            count = 1
            for size in tensor.shape:
                count *= size
            total += count
        return total


def base_facts(folder: Path) -> BaseFacts:
    """Everything about a base's folder that its files say without loading it."""
    try:
        config = read_object(folder / "config.json", strict=False)
    except SteerbakeError as error:
        return BaseFacts(problems=(str(error),))
    problems = list(base_problems(folder, config))
    weights = None
    try:
        weights = BaseWeights.read(folder)
    except SteerbakeError as error:
        problems.append(str(error))
    return BaseFacts(config, weights, tuple(problems))


def base_problems(folder: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """Why a base can never be compiled, whatever a fit finds."""
    if reason := why_unsteerable(config):
        yield reason
    else:
        yield from _other_head(config)
    if (folder / "adapter_config.json").is_file():
        yield (
            f"{folder} holds an adapter beside the model, and Transformers would load both while only the model is compiled; "
            "merge it (peft: merge_and_unload, then save_pretrained), or move adapter_config.json and its weights out"
        )
    quantised = config.get("quantization_config")
    method = quantised.get("quant_method") if isinstance(quantised, dict) else None
    package = QUANTISERS.get(str(method))
    if package is not None and find_spec(package.replace("-", "_")) is None:
        yield f"the weights are quantised by {method}, and its package is not installed: pip install {package}"


def why_unsteerable(config: Mapping[str, Any]) -> str | None:
    """Why no model of this config is known to load and steer; None where it is."""
    named = config.get("architectures")
    if not isinstance(config.get("model_type"), str):
        return "config.json has no model_type; name the folder of a Transformers checkpoint"
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        return f"config.json names architectures {named}; exactly one is needed"
    try:
        check_family(config["model_type"])
        stock_classes(config["model_type"], named[0])
    except (SteerbakeError, ValueError) as error:
        return str(error)
    return None


def _other_head(config: Mapping[str, Any]) -> Iterator[str]:
    """A model saved with another head than the one that answers would be fitted with a head of random numbers."""
    from transformers.models.auto import modeling_auto as auto

    kind, named = config["model_type"], config["architectures"][0]
    tables = (auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    known: Any = next((table[kind] for table in tables if kind in table), named)
    if named not in ((known,) if isinstance(known, str) else known):
        yield f"config.json names {named}, which does not answer in words; name a base that was saved as {known}"


def load_processor(folder: Path, *, trust_remote_code: bool) -> tuple[Any, Any]:
    """(Transformers' config, the processor of a vision model or the tokenizer of a text model), without the model.

    Raises:
        CompileError: one of them cannot be read.
    """
    from transformers import AutoConfig, AutoProcessor, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    with told_of(f"{folder}: Transformers cannot read config.json"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    visual = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    reader, kind = (AutoProcessor, "processor") if visual else (AutoTokenizer, "tokenizer")
    with told_of(f"{folder}: the {kind} cannot be loaded, see to its files"):
        return config, reader.from_pretrained(folder, trust_remote_code=trust_remote_code)


@contextmanager
def told_of(what: str) -> Iterator[None]:
    """Makes of an error of a library that a base's files bring about a CompileError that says ``what`` failed."""
    try:
        yield
    except SteerbakeError:
        raise
    except Exception as error:
        raise CompileError(f"{what}: {_line(error)}") from error


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
