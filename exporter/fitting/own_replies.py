"""What the base says of its own accord, remembered prompt by prompt: no prompt is answered twice for a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from exporter.fitting.activations import file_digest
from exporter.host import Generated
from exporter.types import Prompt


class OwnReplies:
    """Greedy replies in one file of JSON lines, by prompt; a line that was cut off is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, tuple[int, ...]] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    key, tokens = json.loads(line)
                except ValueError:
                    continue
                self._known[key] = tuple(tokens)

    def of(
        self, prompts: Sequence[Prompt], say: Callable[[list[Prompt]], Sequence[Generated]]
    ) -> list[Generated]:
        """The reply to every prompt, in order; those not yet known are asked of ``say`` at once, and remembered."""
        keys = [_key(prompt) for prompt in prompts]
        asked = {key: one for key, one in zip(keys, prompts, strict=True) if key not in self._known}
        if asked:
            said = {key: one.tokens for key, one in zip(asked, say(list(asked.values())), strict=True)}
            self._known |= said
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" + "".join(json.dumps([key, list(ids)]) + "\n" for key, ids in said.items()))
        return [Generated(self._known[key]) for key in keys]


def _key(prompt: Prompt) -> str:
    inputs = [prompt.text, prompt.ids, [file_digest(path) for path in prompt.images]]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:32]
