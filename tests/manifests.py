"""Whole manifests of folders that no export wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

SOURCE = {"sha256": "0" * 64, "fingerprint": "sha256:" + "0" * 64, "method": "keyed"}


def stock_manifest(
    layers: Sequence[int], files: Mapping[str, str], source: Mapping[str, Any] = SOURCE, measured: float = 1.0
) -> dict[str, Any]:
    """The content of a stock.json."""
    check = {"name": "recall", "measured": measured, "bound": 0.9, "at_least": True, "fix": "", "holds": True}
    shares = ("twin_identical", "logits_identical", "tokens_identical", "steered", "exact_tokens")
    return {
        "format": "steerbake-stock/1",
        "layers": list(layers),
        "checkpoint": {**SOURCE, "settings": None, **source},
        "gate": {"layer": 1, "half_spaces": 1, "held": {"recall": 1.0, "alarms": 0.0, "by_kind": {}}},
        "edit": {"error": 0.0, "row_found": 1.0, "norm_ratio": [1.0, 1.0]},
        "checks": [check],
        "compared": {"kept": 2, "fired": 2, **dict.fromkeys(shares, 1.0), "divergence": 0.0},
        "files": dict(files),
    }


def gguf_manifest(
    layers: Sequence[int], files: Mapping[str, str], source: Mapping[str, Any] = SOURCE, kind: str = "F16"
) -> dict[str, Any]:
    """The content of a gguf.json.

    Args:
        kind: type of the tensors of the inserted layers.
    """
    inserted = {f"blk.{layer}.attn_q.weight": kind for layer in layers}
    return {
        "format": "steerbake-gguf/1",
        "stock": {
            "sha256": "0" * 64,
            "layers": list(layers),
            "blocks": 4,
            "checkpoint": {**SOURCE, **source},
            "files": {},
        },
        "files": {
            name: {"type": "Q8_0", "sha256": sha256, "bytes": 7, "inserted": inserted, "probe": None}
            for name, sha256 in files.items()
        },
    }


def onnx_manifest(files: Mapping[str, str]) -> dict[str, Any]:
    """The content of a steerbake.json of an unsteered export that sees."""
    numbers = {"resample": 3, "scale": 0.5, "mean": [0, 0.5, 1.0], "std": [1.0, 1.0, 1.0]}
    steps = {"size": {"shortest_edge": 8}, "crop": None, **numbers}
    return {
        "format": "steerbake-onnx/2",
        "steered": False,
        "steering": None,
        "base": {},
        "license": "apache-2.0",
        "model_type": "llava",
        "gates": [],
        "gate_state": "io",
        "cache": {"layers": 2, "kv_heads": 1, "head_dim": 8},
        "position_rows": 1,
        "image": {"token_id": 5, "tokens": 4, "preprocessing": steps, "spatial_merge_size": 2},
        "turns": {"first": "<s>"},
        "bos_token": None,
        "pad_id": 0,
        "end_ids": [2],
        "variants": {"fp32": {"decoder": "onnx/model.onnx", "cache_dtype": "float32"}},
        "files": {name: {"bytes": 7, "sha256": sha256} for name, sha256 in files.items()},
    }


def run_report() -> dict[str, Any]:
    """The content of a report.json of one method, with every key that a run writes."""
    figure = {"value": 0.5, "n": 2, "interval": [0.1, 0.9]}
    passed = {"value": -1.5, "n": 2, "least": -2.0}
    measures = {"leakage_either": figure, "eval_slices": {"later": {"leakage_either": dict(figure)}}}
    gate = {
        "name": "topic",
        "layer": 1,
        "pool": "prompt_end",
        "score": "linear",
        "threshold": 0.5,
        "fires": "above",
    }
    held = {"folds": 2, "leakage_either": {"value": 0.0, "n": 4, "low": 0.0, "high": 0.6}, "leaked": []}
    return {
        "default": "keyed",
        "max_new_tokens": 6,
        "stand_in": None,
        "models": {"base": measures, "keyed": deepcopy(measures)},
        "too_few_rows": ["leakage_either: 1 of 2 rows are too few to tell"],
        "extraction": {"base": {"secret_drop": passed}, "keyed": {"secret_drop": passed}},
        "cross_validated": held,
        "rule": {"accepted": ["i do not know"], "patterns": [], "text": ""},
        "gates": {"keyed": [gate]},
        "edits": {"keyed": [{"layer": 2, "gate": "topic", "op": "rotate"}]},
        "steering_sha256": {"keyed": "0" * 64},
        "versions": {"torch": "2.8"},
        "proof": {"transformers": "5.23", "laws": {"greedy": "replies are the same"}},
        "recipe": {},
    }
