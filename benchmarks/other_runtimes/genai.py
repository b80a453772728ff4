"""Continues prompts with onnxruntime-genai; needs that package and numpy alone.

python genai.py FOLDER prompts.json said.json
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og


def continued(model: Any, prompt: dict[str, Any], images: Path, max_new_tokens: int) -> list[int]:
    """Greedy tokens behind one prompt, up to and including the end token that genai_config.json names."""
    ids = prompt["ids"]
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(ids) + max_new_tokens, do_sample=False)
    generator = og.Generator(model, params)
    inputs = {}  # set_model_input copies nothing: the arrays must live as long as the generator
    if prompt["images"] is not None:
        inputs["pixel_values"] = np.load(images / prompt["images"])
        inputs["num_image_tokens"] = np.array(prompt["image_tokens"], np.int64)
    for name, values in inputs.items():
        generator.set_model_input(name, values)
    generator.append_tokens(np.array([ids], np.int32))
    said = []
    while not generator.is_done():
        generator.generate_next_token()
        said.append(int(generator.get_next_tokens()[0]))
    return said


def main(folder: str, asked: str, out: str) -> None:
    request = json.loads(Path(asked).read_text(encoding="utf-8"))
    model = og.Model(folder)
    said = {
        prompt["id"]: continued(model, prompt, Path(asked).parent, request["max_new_tokens"])
        for prompt in request["prompts"]
    }
    versions = {name: importlib.metadata.version(name) for name in ("onnxruntime-genai", "onnxruntime")}
    answer = {"versions": {**versions, "python": platform.python_version()}, "said": said}
    Path(out).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
