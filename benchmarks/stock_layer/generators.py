"""One stock checkpoint, or its twin, in one runtime: greedy ids, and the logits of a whole sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from exporter.host import Generated, ModelHost
from exporter.targets.gguf import runner
from exporter.types import Prompt
from steer_modules.registration import register

ROOM = 512


class Generator(Protocol):
    """What is measured: greedy ids, and logits [T, V] to compare bit by bit."""

    tokenizer: Any

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, batch_size: int = 32
    ) -> Sequence[Generated]: ...

    def logits(self, ids: Sequence[int]) -> np.ndarray: ...


class HostGenerator:
    """Transformers, plain or with the steered checkpoint's own class."""

    def __init__(self, host: ModelHost) -> None:
        self.host, self.tokenizer = host, host.tokenizer

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype, processor: Any) -> HostGenerator:
        if (folder / "steering.safetensors").is_file():
            register(folder)
        return cls(ModelHost.load(folder, dtype=dtype, processor=processor))

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, batch_size: int = 32
    ) -> list[Generated]:
        return self.host.generate(prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        return self.steered_logits(ids).numpy()

    def steered_logits(self, ids: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():
            return self.host.model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].float()


class GgufGenerator:
    """llama.cpp."""

    def __init__(self, model: runner.GgufModel, tokenizer: Any, ends: Sequence[int]) -> None:
        self.model, self.tokenizer, self.ends = model, tokenizer, ends

    @classmethod
    @contextmanager
    def opened(cls, path: Path, tokenizer: Any, ends: Sequence[int]) -> Iterator[GgufGenerator]:
        with runner.opened(path, ROOM, logits_all=True) as model:
            yield cls(model, tokenizer, ends)

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int, **_: Any) -> list[Generated]:
        return [Generated(tuple(self.model.generate(one.ids, max_new_tokens, self.ends))) for one in prompts]

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        return self.model.logits(ids)


class GenaiGenerator:
    """onnxruntime-genai, on what its own model builder wrote."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        import onnxruntime_genai

        self.genai, self.tokenizer = onnxruntime_genai, tokenizer
        self.model = onnxruntime_genai.Model(str(folder))

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int, **_: Any) -> list[Generated]:
        return [Generated(tuple(self._continued(one.ids, max_new_tokens))) for one in prompts]

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [1, V] behind the last token: all that this runtime keeps of a prompt."""
        generator = self._generator(ids, 1)
        generator.append_tokens(np.array(ids, dtype=np.int32))
        return np.array(generator.get_output("logits"))[0, -1:]

    def _continued(self, ids: Sequence[int], most: int) -> list[int]:
        generator = self._generator(ids, most)
        generator.append_tokens(np.array(ids, dtype=np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return [int(one) for one in generator.get_sequence(0)[len(ids) :]]

    def _generator(self, ids: Sequence[int], most: int) -> Any:
        params = self.genai.GeneratorParams(self.model)
        params.set_search_options(do_sample=False, max_length=len(ids) + most)
        return self.genai.Generator(self.model, params)
