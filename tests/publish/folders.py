"""Folders that look published: small files under the names that count, for tests that look at names, hashes and records alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from exporter.publish.origin import Origin
from exporter.publish.verification import (
    FORGETTING,
    KNOWN_FILES,
    LOADING,
    PARITY,
    Check,
    Verification,
    covered,
)

SECTION = {"format": "steerbake/2", "sha256": "ab" * 32, "base": {"fingerprint": "sha256:" + "0" * 64}}


def written(folder: Path, *targets: str) -> Path:
    """A checkpoint of names, with other targets beside it."""
    config = {"model_type": "steered_llama", "steering": SECTION}
    files: dict[str, str] = {
        "config.json": json.dumps(config),
        "model-00001-of-00001.safetensors": "weights",
        "steering.safetensors": "steering",
    }
    marks = {"onnx": "steerbake.json", "stock": "stock.json", "gguf": "gguf.json"}
    files.update({f"{name}/{marks[name]}": "{}" for name in targets})
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def verified(folder: Path, *targets: str, **changes: Any) -> Verification:
    """A verification of such a folder in which everything holds, with some fields changed."""
    names = [
        (LOADING, "checkpoint"),
        (KNOWN_FILES, "checkpoint"),
        *((name, "checkpoint") for name in FORGETTING),
    ]
    for target in targets:
        names += [(name, target) for name in (LOADING, PARITY, *FORGETTING[:2])]
    checks = [Check(name=name, target=target, holds=True, told="it does") for name, target in names]
    found = Verification.of(covered(folder), checks, {}, {"models": {}}, {"python": "3"})
    return found.model_copy(update=changes)


def provenance(**changes: Any) -> Origin:
    """What such a folder was made from."""
    content = {
        "publication": {"forgotten": "a city"},
        "recipe": {"name": "one"},
        "recipe_name": "one",
        "versions": {"python": "3"},
        "seed": 0,
        "method": "quick",
        "section": SECTION,
        "base": {"repo": None, "shards": {"model-00001-of-00001.safetensors": "0" * 64}},
        "forget_rows": {"count": 0, "hmac_sha256": []},
        **changes,
    }
    return Origin.model_validate_json(json.dumps(content))
