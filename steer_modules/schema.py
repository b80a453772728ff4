"""Format ``steerbake/2`` as data: which keys and tensors each gate score and each edit has (docs/format.md)."""

from __future__ import annotations

from typing import Any, NamedTuple

FORMAT = "steerbake/2"

CONFIG_KEYS = ("steering", "steering_shapes", "steering_requires", "steering_settings")
"""What a checkpoint's config.json has beside its base's keys and ``auto_map``."""

Section = dict[str, Any]
"""An object of the steering section as JSON has it: the whole, a gate or an edit. ``checks.check_program`` says that it is one."""

POOLS = ("prompt_end", "prompt_mean", "token")
FIRES = ("below", "above")
HEADER_POOLS = ("prompt_end", "prompt_mean")
"""Pools that decide at the last token of each generation header; the other decides at every column."""
POSITIONS = ("all", "from_gate")
TARGETS = ("direction", "nearest", "keyed")
ANGLES = ("calibrated", "fraction")
PROTECTIONS = ("none", "direction", "exact")
SIGNS = ("fixed", "state")

SECTION_KEYS = (
    "format",
    "method",
    "hidden_size",
    "num_layers",
    "base",
    "headers",
    "gates",
    "edits",
    "sha256",
)
OPTIONAL_SECTION_KEYS = ("canary",)
CANARY_KEYS = ("ids", "gate", "argmax")
BASE_KEYS = ("architecture", "model_type")
OPTIONAL_BASE_KEYS = ("fingerprint", "settings")
HELD = "held"
"""What ``base.settings`` of a section says, where the config.json around it must have the settings that it was compiled with."""
GATE_KEYS = ("name", "layer", "pool", "score", "threshold", "fires")
EDIT_KEYS = ("layer", "gate", "op", "positions")


class TensorRule(NamedTuple):
    """Shape by axis letter (``d`` the hidden size, a digit itself, other letters free) and what its rows must be."""

    shape: tuple[str, ...]
    required: bool = True
    kind: str = "any"
    """any | nonzero_rows | unit_rows | orthonormal_columns | nonzero"""


SCORE_TENSORS: dict[str, dict[str, TensorRule]] = {
    "subspace_ratio": {
        "basis": TensorRule(("d", "r"), kind="orthonormal_columns"),
        "center": TensorRule(("d",), required=False),
    },
    "prototype_margin": {
        "forget_prototypes": TensorRule(("m", "k"), kind="unit_rows"),
        "retain_prototypes": TensorRule(("n", "k"), kind="unit_rows"),
        "center": TensorRule(("d",), required=False),
        "metric": TensorRule(("k", "d"), required=False),
    },
    "linear": {"weight": TensorRule(("d",)), "bias": TensorRule(("1",))},
    "linear_unit": {"weight": TensorRule(("d",)), "bias": TensorRule(("1",))},
}

EDIT_OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rotate": (("target", "angle", "protect"), ("strength",)),
    "add": ((), ("strength", "keep_norm")),
    "project": ((), ("strength",)),
    "affine": ((), ("strength",)),
}
"""op -> (required keys, optional keys) besides EDIT_KEYS; rotate with target "direction" also takes ``sign``."""

_PLAIN_EDIT_TENSORS: dict[str, dict[str, TensorRule]] = {
    "add": {"vector": TensorRule(("d",))},
    "project": {
        "basis": TensorRule(("d", "r"), kind="orthonormal_columns"),
        "center": TensorRule(("d",), required=False),
    },
    "affine": {
        "left": TensorRule(("d", "k")),
        "right": TensorRule(("k", "d")),
        "bias": TensorRule(("d",)),
    },
}


def edit_tensors(edit: Section) -> dict[str, TensorRule]:
    """The tensors an edit has, given its keys; ``edit`` names a known op with known options."""
    if edit["op"] != "rotate":
        return _PLAIN_EDIT_TENSORS[edit["op"]]
    target = edit["target"]
    rules: dict[str, TensorRule] = {}
    if target == "direction":
        rules["direction"] = TensorRule(("d",), kind="nonzero")
    if target in ("nearest", "keyed") or edit["angle"] == "calibrated":
        rules["prototypes"] = TensorRule(("m", "d"), kind="nonzero_rows")
    if target == "keyed":
        rules["keys"] = TensorRule(("m", "d"), kind="nonzero_rows")
        rules["key_center"] = TensorRule(("d",), required=False)
    if edit["protect"] != "none":
        rules["retain_basis"] = TensorRule(("d", "r"), kind="orthonormal_columns")
    return rules
