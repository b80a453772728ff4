"""The kinds of GGUF file there are: how each is asked for, called and made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from exporter.errors import CompileError

CONVERTED = ("f32", "f16")
"""What the converter writes itself; every quantised file is made from ``f16``."""

QUANTISED: Mapping[str, int] = MappingProxyType(
    {
        "q4_0": 2,
        "q4_1": 3,
        "q8_0": 7,
        "q5_0": 8,
        "q5_1": 9,
        "q3_k_s": 11,
        "q3_k_m": 12,
        "q3_k_l": 13,
        "q4_k_s": 14,
        "q4_k_m": 15,
        "q5_k_s": 16,
        "q5_k_m": 17,
        "q6_k": 18,
    }
)
"""Kinds that a quantiser writes, with their number among llama.cpp's ``llama_ftype``."""

KEPT = ("F16", "F32")
"""Types that a tensor of an inserted layer may have."""

DEFAULT = ("f16", "q8_0", "q4_k_m")


def choose(types: Sequence[str]) -> tuple[str, ...]:
    """The types asked for, in small letters; raises CompileError for an empty choice, a repeated or an unknown one."""
    chosen = tuple(one.lower() for one in types)
    known = (*CONVERTED, *QUANTISED)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(known):
        raise CompileError(
            f"types {list(types)} are not valid; choose from {', '.join(known)}, each at most once"
        )
    return chosen


def label(kind: str) -> str:
    """How llama.cpp writes a type: ``f16``, but ``Q4_K_M``."""
    return kind if kind in CONVERTED else kind.upper()
