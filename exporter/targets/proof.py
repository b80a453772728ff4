"""The proof of a family: a tiny twin of a base, with random weights and a random program, keeps every law of a steered checkpoint.

There is no code and no list per family. What a twin of the same config and classes keeps, the base keeps; what it breaks is refused
before anything is fitted or written. The checkpoint repeats the law of docs/format.md each time it is loaded (steer_modules/proof.py).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers.utils import logging

from exporter.errors import CompileError
from exporter.steerable import why_unsteerable
from exporter.targets.contract import LAWS, Contract, Writer, prompt
from exporter.targets.twins import built, small_config

_PROVEN: dict[str, Proof] = {}


@dataclass(frozen=True)
class Proof:
    """A proof that was passed.

    Attributes:
        laws: names in :data:`exporter.targets.contract.LAWS`.
        transformers: version under which they held.
    """

    model_type: str
    architecture: str
    transformers: str
    laws: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """As it is written into provenance and reports."""
        return {"transformers": self.transformers, "laws": {name: LAWS[name] for name in self.laws}}


def prove(config: Any, write: Writer) -> Proof:
    """Tries a twin of a base; once for each kind of config in a process.

    Args:
        config: the base's, as Transformers loads it.
        write: compiles a program for a base into a folder, without a proof.

    Raises:
        CompileError: models of this kind cannot be steered; it names the law that broke, or why there is no twin.
    """
    if reason := why_unsteerable(config):
        raise CompileError(reason)
    model_type, architecture = config.model_type, str(config.architectures[0])
    small = small_config(config)
    known = f"{architecture}{transformers.__version__}{small.to_json_string(use_diff=False)}"
    if known not in _PROVEN:
        with _aside():
            twin = built(config, copy.deepcopy(small), getattr(transformers, architecture), prompt(12, 2))
            laws = Contract(twin).check(write)
        _PROVEN[known] = Proof(model_type, architecture, transformers.__version__, laws)
    return _PROVEN[known]


@contextmanager
def _aside() -> Iterator[None]:
    """Draws no number of the caller's, keeps no gradient, says nothing."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device("cpu"):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
