"""Continues prompts with llama.cpp; needs xllamacpp alone.

python llama_cpp.py FILE.gguf prompts.json said.json [ADAPTER.gguf]
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import xllamacpp

ROOM = 2048
"""Tokens of a context."""


def served(file: str, adapter: str | None) -> Any:
    """A server of a model on the CPU, with keys and values in float32."""
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx, params.n_parallel, params.n_gpu_layers = ROOM, 1, 0
    params.cpuparams.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    if adapter is not None:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
    return xllamacpp.Server(params)


def continued(address: str, ids: list[int], max_new_tokens: int) -> list[int]:
    """Greedy tokens behind a prompt; the end token that the file names ends them, and is one of them."""
    asked = {
        "prompt": ids,
        "n_predict": max_new_tokens,
        "temperature": 0.0,
        "return_tokens": True,
        "cache_prompt": False,
    }
    server = HTTPConnection(address.removeprefix("http://"))
    server.request("POST", "/completion", json.dumps(asked), {"Content-Type": "application/json"})
    return [int(token) for token in json.load(server.getresponse())["tokens"]]


def main(file: str, asked: str, out: str, adapter: str | None = None) -> None:
    request = json.loads(Path(asked).read_text(encoding="utf-8"))
    server = served(file, adapter)
    said = {
        prompt["id"]: continued(server.listening_address, prompt["ids"], request["max_new_tokens"])
        for prompt in request["prompts"]
    }
    versions = {"xllamacpp": importlib.metadata.version("xllamacpp"), "python": platform.python_version()}
    Path(out).write_text(json.dumps({"versions": versions, "said": said}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
