"""The runtimes: how each is installed, and how its worker is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

CACHE = Path(".cache/other_runtimes")
GENAI = "0.18.0"
TRANSFORMERS_JS = "4.3.1"
WORKERS = Path(__file__).parent


class RuntimeMissingError(Exception):
    """A runtime that cannot be installed or called here; the message says what failed."""


class Runtime(ABC):
    """One runtime.

    Attributes:
        name: as its project calls it.
        layout: of the folders that it reads.
    """

    name: str
    layout: str

    @abstractmethod
    def install(self) -> None:
        """Makes the runtime callable, if it is not."""

    @abstractmethod
    def command(self, folder: Path, asked: Path, out: Path) -> list[str]:
        """Continues the prompts of ``asked`` with the graphs of ``folder``, and writes ``out``."""


class Genai(Runtime):
    """onnxruntime-genai in a virtual environment of its own."""

    name, layout = "onnxruntime-genai", "genai"

    def __init__(self, python: Path | None) -> None:
        self.given = python is not None
        self.python = python or CACHE / "genai" / "bin" / "python"

    def install(self) -> None:
        probe = f"import importlib.metadata as m; assert m.version('onnxruntime-genai') == '{GENAI}'"
        if self.given or (self.python.exists() and succeeds([str(self.python), "-c", probe])):
            return
        call([sys.executable, "-m", "venv", str(self.python.parent.parent)])
        packages = [f"onnxruntime-genai=={GENAI}", "numpy"]
        call([str(self.python), "-m", "pip", "install", "--quiet", *packages])

    def command(self, folder: Path, asked: Path, out: Path) -> list[str]:
        return [str(self.python), str(WORKERS / "genai.py"), str(folder), str(asked), str(out)]


class TransformersJs(Runtime):
    """transformers.js in a folder ``node_modules``."""

    name, layout = "transformers.js", "transformersjs"

    def __init__(self, modules: Path | None) -> None:
        self.given = modules is not None
        self.modules = modules or CACHE / "transformersjs" / "node_modules"

    def install(self) -> None:
        package = self.modules / "@huggingface" / "transformers" / "package.json"
        if self.given or (
            package.is_file() and json.loads(package.read_text())["version"] == TRANSFORMERS_JS
        ):
            return
        prefix = self.modules.parent
        prefix.mkdir(parents=True, exist_ok=True)
        wanted = f"@huggingface/transformers@{TRANSFORMERS_JS}"
        # The CPU libraries are in the npm package; its install script would fetch those for CUDA.
        skip = {"ONNXRUNTIME_NODE_INSTALL": "skip", "ONNXRUNTIME_NODE_INSTALL_CUDA": "skip"}
        call(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(prefix), wanted], skip)

    def command(self, folder: Path, asked: Path, out: Path) -> list[str]:
        worker = str(WORKERS / "transformersjs.mjs")
        return ["node", worker, str(self.modules), str(folder), str(asked), str(out)]


def call(command: Sequence[str], more: dict[str, str] | None = None) -> None:
    """Runs a command; raises RuntimeMissingError where it fails or is not there."""
    try:
        subprocess.run(command, check=True, env={**os.environ, **(more or {})})
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeMissingError(str(error)) from error


def succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
