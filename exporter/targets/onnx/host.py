"""An exported folder as the rooms see a model: prompts in, tokens and gates out, or its logits step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporter.host import Generated, PromptBatcher
from exporter.targets.onnx_runner import OnnxModel, Sampling
from exporter.types import Encoded, Prompt, Trace


class OnnxHost:
    """One variant of an exported folder.

    Args:
        model: its graphs.
        processor: the model's processor, which makes arrays of images.
    """

    def __init__(self, model: OnnxModel, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.batcher = PromptBatcher(processor, model.manifest["pad_id"])

    @classmethod
    def load(
        cls,
        folder: Path,
        processor: Any,
        *,
        dtype: str | None = None,
        threads: int = 0,
        say: Callable[[str], None] | None = None,
    ) -> OnnxHost:
        """Opens a folder; raises FolderError where it is not whole."""
        # Threads that spin while another model works take its cores.
        return cls(OnnxModel(folder, dtype=dtype, threads=threads, spinning=False, say=say), processor)

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, batch_size: int = 32
    ) -> list[Generated]:
        """Continue every prompt greedily; results come in the order given."""
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i].ids), i))
        done: dict[int, Generated] = {}
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            asked = [prompts[i] for i in chosen]
            said = self.model.generate(
                [prompt.ids for prompt in asked], max_new_tokens=max_new_tokens, images=self._images(asked)
            )
            done.update(
                (i, Generated(tuple(one.tokens), one.gates)) for i, one in zip(chosen, said, strict=True)
            )
        return [done[i] for i in range(len(prompts))]

    def stream(
        self, prompt: Prompt, write: Callable[[int], None], *, max_new_tokens: int, sampling: Sampling
    ) -> Generated:
        """Continue one prompt; ``write`` is told each token as it comes."""

        def told(tokens: list[int | None]) -> None:
            if tokens[0] is not None:
                write(tokens[0])

        said = self.model.generate(
            [prompt.ids],
            max_new_tokens=max_new_tokens,
            images=self._images([prompt]),
            sampling=sampling,
            on_token=told,
        )[0]
        return Generated(tuple(said.tokens), said.gates)

    def replay(self, prompts: Sequence[Prompt], reference: Trace, gates: np.ndarray | None) -> Trace:
        """The logits where another model's tokens are said: prefill, then a cached step for each of its tokens but the last."""
        inputs = self.batcher.batch([Encoded(prompt) for prompt in prompts], "left")
        ids, mask = inputs.pop("input_ids").numpy(), inputs.pop("attention_mask").numpy()
        images = {name: value.numpy() for name, value in inputs.items()} if "pixel_values" in inputs else None
        state, prefill = self.model.start(ids, mask, images, gates)
        steps = np.split(reference.tokens, reference.tokens.shape[1], axis=1)[:-1]
        logits = [self.model.advance(state, step)[:, -1] for step in steps]
        stacked = np.stack([prefill[:, -1], *logits], axis=1)
        return Trace(prefill, mask.astype(bool), stacked, stacked.argmax(-1), state.gates)

    def _images(self, prompts: Sequence[Prompt]) -> dict[str, np.ndarray] | None:
        """Arrays of all images of some prompts, as the processor makes them."""
        if not any(prompt.images for prompt in prompts):
            return None
        made = self.batcher.batch([Encoded(prompt) for prompt in prompts], "left")
        return {
            name: value.numpy() for name, value in made.items() if name not in ("input_ids", "attention_mask")
        }
