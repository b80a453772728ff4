"""How to load each target of a published folder: three lines that pin the revision, taken from what the folder holds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import VerificationError
from exporter.publish.metadata import is_repo_id

_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_FILE = re.compile(r"[A-Za-z0-9._-]+")
_RUNNER = "steerbake_runner.py"
_PREFERRED = ("Q8_0", "Q4_K_M", "f16")
LOCAL = "path/to/this/folder"
"""What a card names where there is no repository to load from."""


@dataclass(frozen=True)
class UsageSnippet:
    """How one target is loaded.

    Attributes:
        title: the runtime's name.
        language: of the code block.
        code: three lines.
        note: what the reader must know of this target.
    """

    target: str
    title: str
    language: str
    code: str
    note: str


@dataclass(frozen=True)
class Place:
    """Where a stranger finds the folder: a repository at a pinned revision, or a folder on a disk (``repo_id`` None)."""

    repo_id: str | None
    revision: str | None

    def __post_init__(self) -> None:
        if self.repo_id is None:
            return
        if not is_repo_id(self.repo_id):
            raise VerificationError(f"a repository is called owner/name; received {self.repo_id!r}")
        if self.revision is None or not _REVISION.fullmatch(self.revision):
            raise VerificationError(f"a card pins a tag or a commit; received {self.revision!r}")

    @property
    def root(self) -> str:
        """The folder in which a downloaded target lies."""
        return LOCAL if self.repo_id is None else self.repo_id.split("/")[-1]

    def pretrained(self, options: str = "") -> str:
        """Arguments of ``from_pretrained``."""
        if self.repo_id is None:
            return f'"{LOCAL}"{options}'
        return f'"{self.repo_id}", revision="{self.revision}"{options}'

    def download(self, subfolder: str) -> str:
        """The line that brings one folder of the repository."""
        if self.repo_id is None:
            return f"cd {LOCAL}/{subfolder}"
        return f'hf download {self.repo_id} --revision {self.revision} --include "{subfolder}/*" --local-dir {self.root}'

    def within(self, subfolder: str, name: str) -> str:
        """A file of a downloaded target."""
        return name if self.repo_id is None else f"{self.root}/{subfolder}/{name}"


def usage_snippet(folder: Path, target: str, place: Place) -> UsageSnippet:
    """How ``target`` of the published ``folder`` is loaded.

    Raises:
        VerificationError: there is no such target, or the folder lacks a file of it.
    """
    if target not in _WRITERS:
        raise VerificationError(f"no target is called {target!r}; there are {', '.join(_WRITERS)}")
    return _WRITERS[target](folder, place)


def _checkpoint(folder: Path, place: Place) -> UsageSnippet:
    classes = _config(folder).get("auto_map") or {}
    model = next(
        (name for name in ("AutoModelForImageTextToText", "AutoModelForCausalLM") if name in classes),
        None,
    )
    if model is None:
        raise VerificationError(
            f"{folder / 'config.json'} names no class in auto_map; compile the checkpoint again"
        )
    note = (
        "`trust_remote_code` runs the few files of code in this repository that apply the steering. Without it, or with a file "
        "missing or changed, loading raises an error: the model never runs unsteered by accident. vLLM, SGLang and TGI keep no gates between "
        f"requests and refuse it; {_served(folder)}."
    )
    code = _python(model, place.pretrained(", trust_remote_code=True"))
    return UsageSnippet("checkpoint", "Transformers", "python", code, note)


def _served(folder: Path) -> str:
    """What to serve where requests share a row."""
    if (folder / "stock").is_dir():
        return "serve the stock checkpoint in `stock/` there"
    return "what to serve there is a stock checkpoint, which `steerbake export stock` writes"


def _stock(folder: Path, place: Place) -> UsageSnippet:
    architecture = str((_config(folder / "stock").get("architectures") or [""])[0])
    model = (
        "AutoModelForCausalLM"
        if architecture.endswith(("ForCausalLM", "LMHeadModel"))
        else "AutoModelForImageTextToText"
    )
    note = (
        "An ordinary checkpoint of the base's own architecture, with a computed layer in place of code. It approximates the "
        "checkpoint above; what differs was measured and stands under Checks."
    )
    code = _python(model, place.pretrained(', subfolder="stock"'))
    return UsageSnippet("stock", "Transformers, without remote code", "python", code, note)


def _onnx(folder: Path, place: Place) -> UsageSnippet:
    if not (folder / "onnx" / _RUNNER).is_file():
        raise VerificationError(f"{folder / 'onnx'} has no {_RUNNER}; export the onnx target again")
    sees = any((folder / "onnx").rglob("vision_encoder*.onnx"))
    image = " --image picture.png" if sees else ""
    code = (
        f"pip install onnxruntime numpy tokenizers{' pillow' if sees else ''}{'' if place.repo_id is None else ' huggingface_hub'}\n"
        f"{place.download('onnx')}\n"
        f'python {place.within("onnx", _RUNNER)} --prompt "Hello"{image}'
    )
    note = "The steering is part of the graphs. The runner hashes every file first and refuses a folder in which one was changed."
    return UsageSnippet("onnx", "ONNX Runtime", "sh", code, note)


def _gguf(folder: Path, place: Place) -> UsageSnippet:
    names = sorted(path.name for path in (folder / "gguf").glob("*.gguf"))
    wanted = [name for kind in _PREFERRED for name in names if kind in name]
    if not names or not all(map(_FILE.fullmatch, names)):
        raise VerificationError(
            f"{folder / 'gguf'} holds no GGUF file that can be named; export the gguf target again"
        )
    name = (wanted or names)[0]
    code = (
        f"{'' if place.repo_id is None else 'pip install huggingface_hub'}\n"
        f"{place.download('gguf')}\n"
        f'llama-cli -m {place.within("gguf", name)} -p "Hello"'
    ).lstrip("\n")
    note = "Made of the stock checkpoint. The layers that steer are not quantised; the others are, which moves the states that gates judge."
    return UsageSnippet("gguf", "llama.cpp", "sh", code, note)


_WRITERS: dict[str, Callable[[Path, Place], UsageSnippet]] = {
    "checkpoint": _checkpoint,
    "onnx": _onnx,
    "stock": _stock,
    "gguf": _gguf,
}
"""In the order in which a card has them."""
TARGETS = tuple(_WRITERS)


def _python(model: str, arguments: str) -> str:
    sees = model == "AutoModelForImageTextToText"
    reader, variable = ("AutoProcessor", "processor") if sees else ("AutoTokenizer", "tokenizer")
    return (
        f"from transformers import {', '.join(sorted((model, reader)))}\n"
        f"model = {model}.from_pretrained({arguments})\n"
        f"{variable} = {reader}.from_pretrained({arguments})"
    )


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VerificationError(f"{folder / 'config.json'} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise VerificationError(f"{folder / 'config.json'} is no JSON object")
    return found
