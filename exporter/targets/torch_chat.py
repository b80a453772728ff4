"""One conversation with a Transformers checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from exporter.errors import InputErrors
from exporter.host import Generated, Memory, ModelHost
from exporter.targets.values import Sampling
from exporter.types import Prompt

DTYPES = ("float32", "float16", "bfloat16")


class TorchChat:
    """A model that remembers what it has computed of the conversation so far."""

    def __init__(self, host: ModelHost) -> None:
        self.host, self.memory = host, Memory()
        self.processor: object = host.processor
        self.tokenizer: object = host.tokenizer

    @classmethod
    def load(cls, folder: Path, dtype: str | None, say: Callable[[str], None]) -> TorchChat:
        """Loads a checkpoint; raises InputErrors for a dtype that there is not."""
        if dtype not in (None, *DTYPES):
            raise InputErrors("--dtype", [f"a checkpoint runs in {', '.join(DTYPES)}, not in {dtype!r}"])
        host = ModelHost.load(folder, dtype=getattr(torch, dtype) if dtype else "auto")
        say(f"{folder} ({host.dtype}) runs on PyTorch, {host.device}".replace("torch.", ""))
        return cls(host)

    def stream(
        self, prompt: Prompt, write: Callable[[int], None], *, max_new_tokens: int, sampling: Sampling
    ) -> Generated:
        """Continues one prompt; ``write`` is told each token as it comes."""
        # Every token is left in but for top_p, whatever the checkpoint's own settings say.
        choice = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        return self.host.stream(
            prompt,
            write,
            max_new_tokens=max_new_tokens,
            memory=self.memory,
            **(choice if sampling.temperature > 0 else {}),
        )
