"""What can be wrong with the tensors of a steering program: names, dtypes, shapes, values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .ops import norm, unit
from .schema import SCORE_TENSORS, Section, TensorRule, edit_tensors

_TOLERANCE = 1e-4


def check_tensors(
    section: Section,
    gates: dict[str, Section],
    edits: dict[int, Section],
    tensors: Mapping[str, Tensor],
    problems: list[str],
) -> None:
    """Adds to ``problems`` what is wrong with the tensors of gates and edits, whose keys are known to be right."""
    expected: dict[str, TensorRule] = {}
    for name, gate in gates.items():
        expected.update(
            {f"steering.gates.{name}.{leaf}": r for leaf, r in SCORE_TENSORS[gate["score"]].items()}
        )
    for layer, edit in edits.items():
        expected.update({f"steering.layers.{layer}.{leaf}": r for leaf, r in edit_tensors(edit).items()})
    problems += [
        f"tensor {name} is missing"
        for name, rule in expected.items()
        if rule.required and name not in tensors
    ]
    problems += [f"tensor {name} is not used by any gate or edit" for name in tensors if name not in expected]
    sizes: dict[str, int] = {}
    for name, rule in expected.items():
        if name in tensors:
            _check_tensor(name, tensors[name], rule, section["hidden_size"], sizes, problems)
    if not problems:
        _check_prototype_width(section, gates, tensors, problems)
        for layer, edit in edits.items():
            _check_protected_targets(layer, edit, tensors, problems)


def _check_prototype_width(
    section: Section,
    gates: dict[str, Section],
    tensors: Mapping[str, Tensor],
    problems: list[str],
) -> None:
    """Without a metric, prototypes are compared with the state itself."""
    for name, gate in gates.items():
        if gate["score"] == "prototype_margin" and f"steering.gates.{name}.metric" not in tensors:
            width = tensors[f"steering.gates.{name}.forget_prototypes"].shape[1]
            if width != section["hidden_size"]:
                problems.append(
                    f"tensor steering.gates.{name}.forget_prototypes has rows of {width}; expected {section['hidden_size']} without a "
                    "metric"
                )


def _check_tensor(
    name: str, tensor: Tensor, rule: TensorRule, hidden: int, sizes: dict[str, int], problems: list[str]
) -> None:
    if tensor.dtype != torch.float32:
        problems.append(f"tensor {name} is {tensor.dtype}; steering tensors are float32")
        return
    owner = name.rpartition(".")[0]
    fits = len(tensor.shape) == len(rule.shape)
    for axis, size in zip(rule.shape, tensor.shape, strict=False):
        wanted = (
            hidden
            if axis == "d"
            else int(axis)
            if axis.isdigit()
            else sizes.setdefault(f"{owner}.{axis}", size)
        )
        fits = fits and size == wanted and size > 0
    if not fits:
        shape = ", ".join(rule.shape)
        problems.append(
            f"tensor {name} has shape {list(tensor.shape)}; expected [{shape}] with d = {hidden}; equal letters are equal sizes within "
            "one gate or edit"
        )
    elif tensor.device.type != "meta":
        fault = _fault(tensor, rule.kind)
        if fault:
            problems.append(f"tensor {name} {fault}")


def _fault(tensor: Tensor, kind: str) -> str | None:
    """What is wrong with a tensor's values, or None."""
    if not bool(torch.isfinite(tensor).all()):
        return "contains a value that is not finite"
    if kind == "orthonormal_columns":
        gram = tensor.double().T @ tensor.double()
        error = (gram - torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)).abs().max().item()
        return (
            f"has columns that are not orthonormal (off by {error:.1e}, at most {_TOLERANCE})"
            if error > _TOLERANCE
            else None
        )
    if kind == "any":
        return None
    lengths = torch.linalg.vector_norm(tensor.double(), dim=-1)
    if kind == "unit_rows":
        error = (lengths - 1).abs().max().item()
        return (
            f"has rows that are not unit (off by {error:.1e}, at most {_TOLERANCE})"
            if error > _TOLERANCE
            else None
        )
    return "has a row of length zero" if bool((lengths == 0).any()) else None


def _check_protected_targets(
    layer: int, edit: Section, tensors: Mapping[str, Tensor], problems: list[str]
) -> None:
    """A target inside the protected subspace leaves nothing to turn towards: the edit would silently do nothing."""
    basis = tensors.get(f"steering.layers.{layer}.retain_basis")
    if basis is None or basis.device.type == "meta":
        return
    for leaf in ("direction", "prototypes"):
        rows = tensors.get(f"steering.layers.{layer}.{leaf}")
        if rows is not None and (leaf == "direction" or edit["target"] != "direction"):
            left = norm(unit(rows) - unit(rows) @ basis @ basis.T)
            if bool((left < 1e-3).any()):
                problems.append(
                    f"tensor steering.layers.{layer}.{leaf} is within the span of retain_basis, so nothing is left to steer towards"
                )
