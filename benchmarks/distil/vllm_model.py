"""A base with a LoRA adapter in vLLM, which runs in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exporter.host import Generated
from exporter.types import Prompt

WORKER = Path(__file__).with_name("vllm_worker.py")


class VllmModel:
    """Greedy completions of vLLM, as a generator of :mod:`exporter.evaluation.conversations`.

    Args:
        python: that has vLLM.
        tokenizer: of the base.
    """

    def __init__(self, python: Path, base: Path, adapter: Path, tokenizer: Any) -> None:
        self.python, self.base, self.adapter, self.tokenizer = python, base, adapter, tokenizer
        self.versions: Mapping[str, str] = {}

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, batch_size: int = 32
    ) -> list[Generated]:
        """Continues every prompt; the worker is started for all of them at once.

        Raises:
            subprocess.CalledProcessError: vLLM does not take the base or the adapter.
        """
        del batch_size
        with tempfile.TemporaryDirectory(prefix="vllm-") as name:
            asked, said = Path(name) / "asked.json", Path(name) / "said.json"
            request = {
                "base": str(self.base.resolve()),
                "adapter": str(self.adapter.resolve()),
                "prompts": [list(prompt.ids) for prompt in prompts],
                "max_new_tokens": max_new_tokens,
            }
            asked.write_text(json.dumps(request), encoding="utf-8")
            subprocess.run([str(self.python), str(WORKER), str(asked), str(said)], check=True)
            found = json.loads(said.read_text(encoding="utf-8"))
        self.versions = found["versions"]
        return [Generated(tuple(tokens)) for tokens in found["said"]]
