"""What each file of a published folder holds, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

_CHECKPOINT = (
    ("config.json", "architecture, and the signed steering section"),
    ("steering.safetensors", "the steering: what gates compare with and what edits write"),
    ("base-*.safetensors", "the base's weights, unchanged; they still hold what was forgotten"),
    ("model-*.safetensors", "the base's weights, unchanged; they still hold what was forgotten"),
    ("model.safetensors.index.steered.json", "which tensor lies in which file"),
    ("*.py", "code that applies the steering"),
)
_ONNX = (
    ("onnx/*.onnx_data", "weights of a graph"),
    ("onnx/*vision_encoder*.onnx", "graph: pictures to embeddings"),
    ("onnx/*embed*.onnx", "graph: tokens to embeddings"),
    ("onnx/*.onnx", "graph: the decoder, the base's weights and the steering"),
    ("onnx/steerbake.json", "what the graphs are, with a hash of each file"),
    ("onnx/steerbake_runner.py", "runs the graphs"),
)
_OTHERS = (
    ("stock/*.safetensors", "the base's weights, and a computed layer that steers"),
    ("stock/stock.json", "what the computed layer does, with a hash of each file"),
    ("gguf/*.gguf", "the stock checkpoint for llama.cpp"),
    ("gguf/gguf.json", "what the files are, with a hash of each"),
    (".eval_results/*.yaml", "results as the Hub reads them"),
    ("plots/*", "pictures of the results"),
    ("README.md", "the card"),
    ("report.html", "the report for people, in one file"),
    ("verification.json", "every check that was made, and a hash of each file"),
    ("provenance.json", "what everything was made from, and a hash of each file"),
)
_ANYWHERE = (
    ("*.safetensors.index.json", "which tensor lies in which file"),
    ("*generation_config.json", "how it generates by default"),
    ("*genai_config.json", "settings of onnxruntime-genai"),
    ("*processor_config.json", "how pictures are prepared"),
    ("*chat_template*", "how conversations are written"),
    ("*token*", "tokenizer"),
    ("*vocab*", "tokenizer"),
    ("*merges.txt", "tokenizer"),
    ("*config.json", "architecture"),
    ("*LICEN[SC]E*", "licence"),
    ("*NOTICE*", "licence"),
)
_MINOR = ("", "code that applies the steering", *(told for _, told in _ANYWHERE))
_GROUPS = {"onnx/": "ONNX Runtime", "stock/": "Transformers, without remote code", "gguf/": "llama.cpp"}


@dataclass(frozen=True)
class FileLine:
    """One file of a folder.

    Attributes:
        holds: in words; empty where its name says nothing.
        size: in bytes; None where the file is not there.
    """

    path: str
    group: str
    holds: str
    size: int | None
    sha256: str

    @property
    def matters(self) -> bool:
        """Whether it is more than a part of what loads the others."""
        return self.holds not in _MINOR

    @property
    def shown_size(self) -> str:
        return "missing" if self.size is None else in_bytes(self.size)


def lines(folder: Path, files: Mapping[str, str]) -> list[FileLine]:
    """Every file of ``files`` (hex SHA-256 by path), by group and path."""
    found = [
        FileLine(path, _group(path), holds(path), _size(folder / path), digest)
        for path, digest in files.items()
    ]
    order = ("Transformers", *_GROUPS.values(), "About the model")
    return sorted(found, key=lambda line: (order.index(line.group), line.path))


def holds(path: str) -> str:
    """What a file of that path holds."""
    for patterns in ((_CHECKPOINT if "/" not in path else ()), _ONNX, _OTHERS, _ANYWHERE):
        for pattern, told in patterns:
            if fnmatchcase(path, pattern):
                return told
    return ""


def _group(path: str) -> str:
    for start, name in _GROUPS.items():
        if path.startswith(start):
            return name
    about = any(fnmatchcase(path, pattern) for pattern, _ in _OTHERS[4:]) or path.startswith(
        (".eval_results/", "plots/")
    )
    return "About the model" if about else "Transformers"


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def in_bytes(size: int) -> str:
    """``1.2 MB``, in powers of a thousand as the Hub counts."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
