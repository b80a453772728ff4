"""What of a base model can be known before it is loaded: whether it will compile, and what its tokenizer makes of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.errors import CompileError, SteerbakeError
from exporter.model_folder import read_object
from exporter.steerable import why_unsteerable
from exporter.targets.base_weights import BaseWeights
from exporter.usable_base import is_binary, why_no_weights, why_unusable


@dataclass(frozen=True)
class BaseFacts:
    """The content of config.json and the headers of the weights.

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
    """Checks of a base's folder by its files, without loading it."""
    problems = why_unusable(folder)
    try:
        config = read_object(folder / "config.json", strict=False)
    except SteerbakeError:  # reported by why_unusable
        return BaseFacts(problems=tuple(problems))
    if isinstance(config.get("model_type"), str) and (reason := why_unsteerable(config)):
        problems.append(reason)
    weights = None
    if (
        not is_binary(folder) and why_no_weights(folder) is None
    ):  # .bin files are looked into when they are converted
        try:
            weights = BaseWeights.read(folder)
        except SteerbakeError as error:
            problems.append(str(error))
    return BaseFacts(config, weights, tuple(problems))


@contextmanager
def told_of(what: str) -> Iterator[None]:
    """Turns an error of a library about a base's files into a CompileError that states ``what`` failed."""
    try:
        yield
    except SteerbakeError:
        raise
    except Exception as error:
        raise CompileError(f"{what}: {_line(error)}") from error


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
