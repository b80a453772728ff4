"""A published folder small enough for tests: a tiny steered checkpoint, with what provenance and verification say of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from manifests import onnx_manifest
from tiny_run import steer, write_base

from exporter.publish.origin import Origin

REPO = "acme/tiny-forgets"
MEASURES = {
    "leakage_either": (1.0, 0.0, 20),
    "fluent_refusal": (0.0, 0.95, 20),
    "retain_identical": (1.0, 0.9875, 80),
    "cot_exact_match": (1.0, 1.0, 12),
    "gate_false_positive": (0.0, 0.0, 0),
}
"""Of base and steered model, with the number of rows."""


def write_release(folder: Path) -> Path:
    """The checkpoint at the root of ``folder / "release"``, and beside it an ONNX folder that holds names only."""
    base, release = folder / "base", folder / "release"
    write_base(base)
    steer(base, release)
    (release / "onnx" / "onnx").mkdir(parents=True)
    (release / "onnx" / "steerbake.json").write_text(json.dumps(onnx_manifest({})))
    for name in ("steerbake_runner.py", "onnx/model.onnx"):
        (release / "onnx" / name).write_text(name)
    return release


def measured(value: float, rows: int) -> dict[str, Any]:
    """A share as verification.json has it, with an interval that holds it."""
    low, high = (max(0.0, value - 0.1), min(1.0, value + 0.1)) if rows else (0.0, 1.0)
    return {"value": value, "rows": rows, "interval": [low, high]}


def unlearning() -> dict[str, Any]:
    """The section of that name."""
    models = {
        model: {name: measured(values[place], values[2]) for name, values in MEASURES.items()}
        for place, model in enumerate(("base", "steered"))
    }
    models["onnx fp32"] = {"leakage_either": measured(0.1, 10)}
    later = {"base": {"leakage_either": measured(1.0, 6)}, "steered": {"leakage_either": measured(0.5, 6)}}
    rule = "A refusal is one of the accepted texts."
    return {
        "method": "keyed",
        "rule": rule,
        "models": models,
        "eval_slices": {"two_turns": later},
        "rows": {},
    }


def verification(release: Path) -> dict[str, Any]:
    """The content of verification.json."""
    files = (path for path in sorted(release.rglob("*")) if path.is_file())
    return {
        "format": "steerbake-verification/1",
        "created": "2026-01-02T03:04:05Z",
        "versions": {"torch": "2.13.0"},
        "checks": [
            {
                "name": "strict loading",
                "target": "checkpoint",
                "holds": True,
                "told": "It loads whole.",
                "value": None,
            },
            {"name": "parity", "target": "onnx", "holds": True, "told": "20 of 20 tokens.", "value": 20},
        ],
        "parity": {},
        "unlearning": unlearning(),
        "files": {
            path.relative_to(release).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        },
    }


def provenance(release: Path, **publication: Any) -> dict[str, Any]:
    """The content of provenance.json before it is sealed."""
    section = json.loads((release / "config.json").read_text(encoding="utf-8"))["steering"]
    return {
        "format": "steerbake-provenance/1",
        "publication": {"forgotten": "where two people live", "language": ["en"], **publication},
        "recipe": {"name": "tiny", "seed": 7, "base": {"repo": "acme/tiny"}, "methods": {"default": "keyed"}},
        "recipe_name": "tiny",
        "versions": {"steerbake": "0.1.0", "torch": "2.13.0"},
        "seed": 7,
        "method": "keyed",
        "section": section,
        "base": {
            "repo": "acme/tiny",
            "revision": None,
            "commit": "0123456789abcdef",
            "fingerprint": section["base"]["fingerprint"],
            "architecture": "LlamaForCausalLM",
            "model_type": "llama",
            "license": "apache-2.0",
            "shards": {},
        },
        "forget_rows": {"count": 2, "hmac_sha256": ["ab", "cd"]},
        "files": {},
    }


def origin(content: dict[str, Any]) -> Origin:
    """What :func:`provenance` says, as the rooms hand it on."""
    return Origin.model_validate_json(
        json.dumps({key: content[key] for key in Origin.model_fields if key in content})
    )


def tag(content: dict[str, Any]) -> str:
    """The revision that a card of this provenance pins."""
    return f"steerbake-{content['section']['sha256'][:12]}"
