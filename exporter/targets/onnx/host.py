"""An exported folder as the rooms see a model: prompts in, tokens and gates out, or its logits step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporter.errors import NotFinite
from exporter.host import Generated
from exporter.prompt_batcher import PromptBatcher
from exporter.targets import onnx_runner
from exporter.targets.onnx_runner import OnnxModel, Sampling, State
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
        digest: Callable[[Path], str] | None = None,
    ) -> OnnxHost:
        """Opens a folder; raises FolderError where it is not whole. ``digest`` finds a file's SHA-256 otherwise than by reading it."""
        # Threads that spin while another model works take its cores.
        model = OnnxModel(folder, dtype=dtype, threads=threads, spinning=False, say=say, digest=digest)
        return cls(model, processor)

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, batch_size: int = 32
    ) -> list[Generated]:
        """Continue every prompt greedily; results come in the order given.

        Raises:
            NotFinite: the scores for the next token of a reply are no finite numbers.
        """
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i].ids), i))
        done: dict[int, Generated] = {}
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            asked = [prompts[i] for i in chosen]
            try:
                said = self.model.generate(
                    [prompt.ids for prompt in asked],
                    max_new_tokens=max_new_tokens,
                    images=self._images(asked),
                )
            except onnx_runner.NotFinite as error:
                raise NotFinite(chosen[error.place]) from error
            done.update(
                (i, Generated(tuple(one.tokens), one.gates)) for i, one in zip(chosen, said, strict=True)
            )
        return [done[i] for i in range(len(prompts))]

    def stream(
        self,
        prompt: Prompt,
        write: Callable[[int], None],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        state: State | None = None,
    ) -> Generated:
        """Continue one prompt; ``write`` is told each token as it comes.

        Args:
            state: of one row, as ``model.empty(1)`` makes it for the first turn. It moves on. Where the prompt begins with what it
                holds, only the rest is fed; else everything, and the state is that of this prompt alone.
        """

        def on_token(tokens: list[int | None]) -> None:
            if tokens[0] is not None:
                write(tokens[0])

        state = self.model.empty(1) if state is None else state
        ids = state.rest(0, prompt.ids)
        if ids is None or self._shows(ids):
            state.become(self.model.empty(1))
            ids = list(prompt.ids)
        said = self.model.generate(
            [ids],
            max_new_tokens=max_new_tokens,
            images=self._images([prompt]) if self._shows(ids) else None,
            sampling=sampling,
            on_token=on_token,
            state=state,
        )[0]
        return Generated(tuple(said.tokens), said.gates)

    def replay(self, prompts: Sequence[Prompt], reference: Trace, gates: np.ndarray | None) -> Trace:
        """The logits where another model's tokens are said: prefill, then a cached step for each of its tokens but the last."""
        inputs = self.batcher.batch([Encoded(prompt) for prompt in prompts], "left")
        ids, mask = inputs.pop("input_ids").numpy(), inputs.pop("attention_mask").numpy()
        images = {name: value.numpy() for name, value in inputs.items()} if "pixel_values" in inputs else None
        state, prefill = self.model.start(ids, mask, images, gates)
        columns, logits = [state.columns], []
        for step in np.split(reference.tokens, reference.tokens.shape[1], axis=1)[:-1]:
            logits.append(self.model.advance(state, step, gates=gates)[:, -1])
            columns.append(state.columns)
        stacked = np.stack([prefill[:, -1], *logits], axis=1)
        decided = np.concatenate(columns, axis=1)
        if not self.model.gate_names:  # the state of graphs without gates has no columns
            decided = np.zeros((len(ids), ids.shape[1] + len(logits), 0), np.float32)
        return Trace(prefill, mask.astype(bool), stacked, stacked.argmax(-1), decided)

    def _shows(self, ids: Sequence[int]) -> bool:
        """Whether there are image tokens among these."""
        image = self.model.manifest["image"]
        return image is not None and image["token_id"] in ids

    def _images(self, prompts: Sequence[Prompt]) -> dict[str, np.ndarray] | None:
        """Arrays of all images of some prompts, as the processor makes them."""
        if not any(prompt.images for prompt in prompts):
            return None
        made = self.batcher.batch([Encoded(prompt) for prompt in prompts], "left")
        return {
            name: value.numpy() for name, value in made.items() if name not in ("input_ids", "attention_mask")
        }
