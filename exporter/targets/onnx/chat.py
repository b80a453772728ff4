"""One conversation with a folder of graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from exporter.host import Generated
from exporter.reader import open_reader
from exporter.targets import onnx_runner
from exporter.targets.onnx.host import OnnxHost
from exporter.targets.values import Sampling
from exporter.types import Prompt


class OnnxChat:
    """Graphs with the state of the conversation so far."""

    def __init__(self, host: OnnxHost) -> None:
        self.host, self.state = host, host.model.empty(1)
        self.processor: object = host.processor
        self.tokenizer: object = host.tokenizer
        self.sampling: onnx_runner.Sampling | None = None

    @classmethod
    def load(cls, folder: Path, dtype: str | None, say: Callable[[str], None]) -> OnnxChat:
        """Opens a folder; raises FolderError where it is not whole."""
        return cls(OnnxHost.load(folder, open_reader(folder), dtype=dtype, say=say))

    def stream(
        self, prompt: Prompt, write: Callable[[int], None], *, max_new_tokens: int, sampling: Sampling
    ) -> Generated:
        """Continues one prompt; ``write`` is told each token as it comes."""
        if self.sampling is None:  # it draws, so one conversation has one
            self.sampling = onnx_runner.Sampling(sampling.temperature, top_p=sampling.top_p)
        return self.host.stream(
            prompt, write, max_new_tokens=max_new_tokens, sampling=self.sampling, state=self.state
        )
