"""Everything that can be wrong with a steering program, found in one pass and reported together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from torch import Tensor, nn

from .schema import (
    ANGLES,
    BASE_KEYS,
    CANARY_KEYS,
    EDIT_KEYS,
    EDIT_OPTIONS,
    FIRES,
    FORMAT,
    GATE_KEYS,
    HEADER_POOLS,
    HELD,
    OPTIONAL_BASE_KEYS,
    OPTIONAL_SECTION_KEYS,
    POOLS,
    POSITIONS,
    PROTECTIONS,
    SCORE_TENSORS,
    SECTION_KEYS,
    SIGNS,
    TARGETS,
    Section,
)
from .tensor_checks import check_tensors

_GATE_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}\Z")
_RESERVED = frozenset(dir(nn.ModuleDict()))


class ProgramError(ValueError):
    """A steering program that breaks format ``steerbake/2``; ``problems`` names each fault."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("not a valid steering program:\n" + "\n".join(f"  - {p}" for p in problems))


def check_program(section: object, tensors: Mapping[str, Tensor], signed: bool = False) -> None:
    """Raises ProgramError with every fault of a section (``signed``: it must have ``sha256``) and its tensors.

    The values of meta tensors are not looked at: they are checked once they are loaded.
    """
    problems: list[str] = []
    if not isinstance(section, dict):
        raise ProgramError([f"the steering section is {type(section).__name__}, not an object"])
    if section.get("format") != FORMAT:
        raise ProgramError(
            [
                f"format is {section.get('format')!r}; this code reads only {FORMAT!r} (steerbake compile --upgrade rewrites older ones)"
            ]
        )
    required = [key for key in SECTION_KEYS if signed or key != "sha256"]
    if not _keys(section, required, OPTIONAL_SECTION_KEYS, "section", problems):
        raise ProgramError(problems)
    _check_header(section, problems)
    gates = _check_gates(section, problems)
    _check_headers(section, gates, problems)
    _check_canary(section, problems)
    edits = _check_edits(section, gates, problems)
    if not problems:
        check_tensors(section, gates, edits, tensors, problems)
    if problems:
        raise ProgramError(problems)


def _keys(
    value: object, required: Sequence[str], optional: Sequence[str], where: str, problems: list[str]
) -> bool:
    """Whether ``value`` is an object with exactly these keys."""
    if not isinstance(value, dict):
        problems.append(f"{where}: expected an object, got {type(value).__name__}")
        return False
    before = len(problems)
    problems += [f"{where}: key {key!r} is missing" for key in required if key not in value]
    known = (*required, *optional)
    problems += [
        f"{where}: unknown key {key!r}; known: {', '.join(known)}" for key in value if key not in known
    ]
    return len(problems) == before


def _one_of(value: object, allowed: Sequence[str], where: str, problems: list[str]) -> bool:
    if isinstance(value, str) and value in allowed:
        return True
    problems.append(f"{where} is {value!r}; known: {', '.join(allowed)}")
    return False


def _is_int(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _check_header(section: Section, problems: list[str]) -> None:
    sizes = [key for key in ("hidden_size", "num_layers") if not _is_int(section[key], 1)]
    problems += [f"{key} is {section[key]!r}; expected a positive integer" for key in sizes]
    if not isinstance(section["method"], str):
        problems.append(f"method is {section['method']!r}; expected a string")
    base = section["base"]
    if _keys(base, BASE_KEYS, OPTIONAL_BASE_KEYS, "base", problems):
        problems += [
            f"base.{key} is {base[key]!r}; expected a name"
            for key in BASE_KEYS
            if not isinstance(base[key], str) or not base[key]
        ]
        print_ = base.get("fingerprint", "sha256:" + "0" * 64)
        if not isinstance(print_, str) or not _FINGERPRINT.match(print_):
            problems.append(f"base.fingerprint is {print_!r}; expected 'sha256:' and 64 hex digits")
        if base.get("settings", HELD) != HELD:
            problems.append(f"base.settings is {base['settings']!r}; expected {HELD!r}, or no such key")
    for key in ("gates", "edits"):
        if not isinstance(section[key], list):
            problems.append(f"{key} is {type(section[key]).__name__}; expected a list")
    if section["edits"] == []:
        problems.append("edits is empty; a program needs at least one edit")


def _check_layer(value: object, section: Section, where: str, problems: list[str]) -> bool:
    count = section["num_layers"]
    if _is_int(value, 0) and (not _is_int(count, 1) or value < count):
        return True
    problems.append(f"{where}.layer is {value!r}; expected an integer from 0 to {count} - 1")
    return False


def _check_gates(section: Section, problems: list[str]) -> dict[str, Section]:
    found: dict[str, Section] = {}
    for index, gate in enumerate(section["gates"] if isinstance(section["gates"], list) else ()):
        where = f"gates[{index}]"
        if not _keys(gate, GATE_KEYS, (), where, problems):
            continue
        name, before = gate["name"], len(problems)
        if not isinstance(name, str) or not _GATE_NAME.match(name) or name in _RESERVED:
            problems.append(
                f"{where}.name is {name!r}; expected [a-z][a-z0-9_]*, and not the name of an attribute of a torch module"
            )
            continue
        if name in found:
            problems.append(f"{where}.name {name!r} is used by another gate")
        _check_layer(gate["layer"], section, where, problems)
        _one_of(gate["pool"], POOLS, f"{where}.pool", problems)
        _one_of(gate["score"], tuple(SCORE_TENSORS), f"{where}.score", problems)
        _one_of(gate["fires"], FIRES, f"{where}.fires", problems)
        if not _is_number(gate["threshold"]):
            problems.append(f"{where}.threshold is {gate['threshold']!r}; expected a finite number")
        if len(problems) == before:
            found[name] = gate
    return found


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_int(one, 0) for one in value)


def _check_headers(section: Section, gates: dict[str, Section], problems: list[str]) -> None:
    """Generation headers are lists of token ids; a gate that decides at them needs at least one."""
    headers = section["headers"]
    if not isinstance(headers, list) or not all(_is_ids(one) for one in headers):
        problems.append(f"headers is {headers!r}; expected a list of lists of token ids")
    elif not headers:
        problems += [
            f"gate {name!r} decides at generation headers (pool {gate['pool']!r}), but headers is empty, so it would never fire"
            for name, gate in gates.items()
            if gate["pool"] in HEADER_POOLS
        ]


def _check_canary(section: Section, problems: list[str]) -> None:
    canary = section.get("canary", [])
    if not isinstance(canary, list):
        problems.append(f"canary is {type(canary).__name__}; expected a list")
        return
    for index, one in enumerate(canary):
        where = f"canary[{index}]"
        if not _keys(one, CANARY_KEYS, (), where, problems):
            continue
        if not _is_ids(one["ids"]) or not _is_ids(one["argmax"]) or len(one["argmax"]) > len(one["ids"]):
            problems.append(
                f"{where}: ids and argmax must be lists of token ids, and argmax not longer than ids"
            )
        if one["gate"] not in (0, 1) or isinstance(one["gate"], bool):
            problems.append(f"{where}.gate is {one['gate']!r}; expected 0 or 1")


def _check_edits(section: Section, gates: dict[str, Section], problems: list[str]) -> dict[int, Section]:
    found: dict[int, Section] = {}
    for index, edit in enumerate(section["edits"] if isinstance(section["edits"], list) else ()):
        where, before = f"edits[{index}]", len(problems)
        if not isinstance(edit, dict) or not _one_of(
            edit.get("op"), tuple(EDIT_OPTIONS), f"{where}.op", problems
        ):
            if not isinstance(edit, dict):
                problems.append(f"{where}: expected an object, got {type(edit).__name__}")
            continue
        required, optional = EDIT_OPTIONS[edit["op"]]
        if edit.get("target") == "direction" and edit["op"] == "rotate":
            optional = (*optional, "sign")
        if not _keys(edit, (*EDIT_KEYS, *required), optional, where, problems):
            continue
        _one_of(edit["positions"], POSITIONS, f"{where}.positions", problems)
        _check_edit_options(edit, where, problems)
        if _check_layer(edit["layer"], section, where, problems):
            if edit["layer"] in found:
                problems.append(f"{where}.layer {edit['layer']} already has an edit")
            _check_edit_gate(edit, gates, where, problems)
        if len(problems) == before:
            found[edit["layer"]] = edit
    listed = section["edits"] if isinstance(section["edits"], list) else ()
    used = {
        name
        for edit in listed
        if isinstance(edit, dict)
        for name in gate_names(edit.get("gate"))
        if isinstance(name, str)
    }
    problems += [f"gate {name!r} is used by no edit" for name in gates if name not in used]
    return found


def gate_names(gate: Any) -> list[Any]:
    """The gates that an edit's ``gate`` names: none for null, one, or those of a list."""
    if gate is None:
        return []
    return list(gate) if isinstance(gate, (list, tuple)) else [gate]


def _check_edit_gate(edit: Section, gates: dict[str, Section], where: str, problems: list[str]) -> None:
    gate, names = edit["gate"], gate_names(edit["gate"])
    if edit["positions"] != ("all" if gate is None else "from_gate"):
        problems.append(
            f"{where}.positions is {edit['positions']!r}; expected 'all' without a gate, 'from_gate' with a gate"
        )
    if isinstance(gate, (list, tuple)) and (
        len(names) < 2 or len({str(name) for name in names}) < len(names)
    ):
        problems.append(f"{where}.gate is {gate!r}; a list must contain two or more different gates")
    for name in names:
        if not isinstance(name, str) or name not in gates:
            problems.append(
                f"{where}.gate is {name!r}; known: {', '.join(gates) or '(no valid gate)'}, or null for always"
            )
        elif gates[name]["layer"] > edit["layer"]:
            problems.append(
                f"{where}: its gate {name!r} is read at layer {gates[name]['layer']}, above the edit's layer {edit['layer']}"
            )


def _check_edit_options(edit: Section, where: str, problems: list[str]) -> None:
    strength = edit.get("strength", 1)
    if not _is_number(strength):
        problems.append(f"{where}.strength is {strength!r}; expected a finite number")
        return
    if not isinstance(edit.get("keep_norm", False), bool):
        problems.append(f"{where}.keep_norm is {edit['keep_norm']!r}; expected true or false")
    if edit["op"] != "rotate":
        return
    _one_of(edit["target"], TARGETS, f"{where}.target", problems)
    _one_of(edit["protect"], PROTECTIONS, f"{where}.protect", problems)
    _one_of(edit.get("sign", "fixed"), SIGNS, f"{where}.sign", problems)
    if not _one_of(edit["angle"], ANGLES, f"{where}.angle", problems):
        return
    if edit["angle"] == "calibrated" and (edit["target"] != "direction" or strength != 1):
        problems.append(f"{where}: angle 'calibrated' needs target 'direction' and strength 1")
    if edit["angle"] == "fraction" and not 0 <= strength <= 1:
        problems.append(f"{where}.strength is {strength!r}; expected a fraction from 0 to 1")
