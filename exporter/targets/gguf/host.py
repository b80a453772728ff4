"""A GGUF file as the rooms see a model: prompts in, tokens out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exporter.errors import VerificationError
from exporter.host import Generated
from exporter.targets.gguf.runner import generate
from exporter.types import Prompt


class GgufHost:
    """One file, run by llama.cpp; it reads text only and has no gates to show.

    Args:
        tokenizer: the stock checkpoint's, whose ids the file was probed with.
        ends: ids that end a reply.
    """

    def __init__(self, path: Path, tokenizer: Any, ends: Sequence[int]) -> None:
        self.path, self.tokenizer, self.ends = path, tokenizer, tuple(ends)

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, batch_size: int = 32
    ) -> list[Generated]:
        """Continue every prompt greedily; one at a time, whatever the batch size.

        Raises:
            CompileError: llama-cpp-python is missing.
            VerificationError: llama.cpp does not load the file, or a prompt shows an image.
        """
        del batch_size
        if any(prompt.images for prompt in prompts):
            raise VerificationError(f"{self.path.name} does not read images; give it text only")
        ids = [prompt.ids for prompt in prompts]
        return [Generated(tuple(one)) for one in generate(self.path, ids, max_new_tokens, self.ends)]
