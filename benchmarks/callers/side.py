"""The two models that every caller is put to: the steered checkpoint, and the base that lies in it."""

from __future__ import annotations

import copy
import inspect
import os
import random
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from benchmarks.callers.observed import Question

NEW = 40
"""New tokens of a reply, at most."""


class Side:
    """One of them, as a caller sees it: a folder, and how to load what lies there.

    Args:
        folder: what is loaded.
        plain: folder of the base: its configs, and the stock model that callers may put beside it.
        trust: whether the folder's own code is needed.
    """

    def __init__(self, folder: Path, plain: Path, questions: Sequence[Question], *, trust: bool) -> None:
        self.folder, self.plain, self.questions, self.trust = folder, plain, questions, trust
        self.config = transformers.AutoConfig.from_pretrained(plain)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(plain)
        self._scratch: list[tempfile.TemporaryDirectory[str]] = []

    @property
    def forgotten(self) -> list[Question]:
        """Questions in text about what is forgotten."""
        return [one for one in self.questions if one.forgotten and not one.further]

    @property
    def kept(self) -> list[Question]:
        """Questions in text at which no gate fires."""
        return [one for one in self.questions if not one.forgotten]

    @property
    def asked(self) -> list[Question]:
        """Questions about what is forgotten, those with pictures too."""
        return [one for one in self.questions if one.forgotten]

    @property
    def pairs(self) -> list[tuple[Question, Question]]:
        """A forgotten and a kept one each."""
        return list(zip(self.forgotten, self.kept, strict=False))

    @property
    def sees(self) -> bool:
        return hasattr(self.config, "vision_config")

    @property
    def auto(self) -> Any:
        """The Auto class of the task."""
        return transformers.AutoModelForImageTextToText if self.sees else transformers.AutoModelForCausalLM

    @property
    def stock(self) -> Any:
        """The stock class that the base's config names."""
        return getattr(transformers, self.config.architectures[0])

    @cached_property
    def model(self) -> Any:
        """Loaded as the README does it; shared by callers that change nothing."""
        return self.load()

    @cached_property
    def base(self) -> Any:
        """The stock model, whatever this side is."""
        return self.auto.from_pretrained(self.plain, dtype=torch.float32).eval()

    def load(self, folder: Path | None = None, auto: Any = None, **options: Any) -> Any:
        """A model of its own, in float32 by default."""
        keys = {"dtype": torch.float32, "trust_remote_code": self.trust, **options}
        return (auto or self.auto).from_pretrained(folder or self.folder, **keys).eval()

    @cached_property
    def cache_name(self) -> str:
        """What this Transformers calls a cache."""
        return "cache" if "cache" in inspect.signature(self.stock.forward).parameters else "past_key_values"

    def cache_of(self, output: Any) -> Any:
        return getattr(output, self.cache_name)

    def step(self, model: Any, ids: Sequence[int], cache: Any = None, **options: Any) -> Any:
        """One pass over some columns with a cache, [1, T]."""
        return model(
            input_ids=torch.tensor([list(ids)]), use_cache=True, **{self.cache_name: cache}, **options
        )

    def new_cache(self) -> Any:
        return transformers.DynamicCache(config=self.config)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of a body's states: the base's own head, whoever made them."""
        return self.base.get_output_embeddings()(hidden.float())

    def decoded(self, ids: Iterable[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def said(self, model: Any, question: Question, **options: Any) -> str:
        """What ``generate`` adds to a prompt, greedily by default."""
        keys = {"do_sample": False, "max_new_tokens": NEW, **options}
        out = model.generate(**question.prompt, **keys)
        return self.decoded(out[0, len(question.ids) :].tolist())

    def scratch(self) -> Path:
        """An empty folder for as long as this side lives."""
        self._scratch.append(tempfile.TemporaryDirectory(prefix="callers-"))
        return Path(self._scratch[-1].name)

    def copy(self, into: Path, *, linked: bool = False) -> Path:
        """A copy of the folder, whose weights may be linked where nobody writes to them."""
        shutil.copytree(self.folder, into, copy_function=_link if linked else shutil.copyfile)
        return into

    def rng(self) -> random.Random:
        return random.Random(0)


def copied(cache: Any) -> Any:
    """A deep copy of a cache, as whoever answers twice from one prompt makes it."""
    return copy.deepcopy(cache)


def _link(source: str, target: str) -> str:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
    return target
