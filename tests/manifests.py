"""Whole manifests of folders that no export wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        "checkpoint": {**SOURCE, **source},
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
