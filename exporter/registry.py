"""What there is to choose from: a method, target, metric or attack is one line here. Families have none: they are proven."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from exporter.errors import SteerbakeError

if TYPE_CHECKING:
    from exporter.evaluate.attacks.base import Attack
    from exporter.evaluate.metrics.base import Metric

METHODS: Mapping[str, str] = {
    "r_muse": "exporter.methods.r_muse:RMuse",  # https://arxiv.org/abs/2512.17911
    "r_muse_calibrated": "exporter.methods.r_muse_calibrated:RMuseCalibrated",  # the same, calibrated
    "keyed": "exporter.methods.keyed:Keyed",  # docs/methods.md
}

TARGETS: Mapping[str, str] = {
    "checkpoint": "exporter.targets.checkpoint:compile_checkpoint",
    "onnx": "exporter.targets.onnx.export:export_onnx",
    "stock": "exporter.targets.stock.export:export_stock",
    "gguf": "exporter.targets.gguf.export:export_gguf",
}


METRICS: Mapping[str, str] = {
    "forget_accuracy": "exporter.evaluate.metrics.accuracy:FORGET",
    "leakage_reasoning": "exporter.evaluate.metrics.leakage:REASONING",
    "leakage_answer": "exporter.evaluate.metrics.leakage:ANSWER",
    "leakage_either": "exporter.evaluate.metrics.leakage:EITHER",
    "fluent_refusal": "exporter.evaluate.metrics.refusal:FORGET",
    "retain_accuracy": "exporter.evaluate.metrics.accuracy:RETAIN",
    "retain_identical": "exporter.evaluate.metrics.identity:RETAIN",
    "reasoning_accuracy": "exporter.evaluate.metrics.accuracy:REASONING",
    "chains_identical": "exporter.evaluate.metrics.identity:CHAINS",
    "unknown_refusal": "exporter.evaluate.metrics.refusal:UNKNOWN",
    "gate_true_positive": "exporter.evaluate.metrics.gates:TRUE_POSITIVE",
    "gate_false_positive": "exporter.evaluate.metrics.gates:FALSE_POSITIVE",
    "extraction_strength": "exporter.evaluate.metrics.one_pass:STRENGTH",  # https://arxiv.org/abs/2406.09179
    "secret_logprob": "exporter.evaluate.metrics.one_pass:SECRET",
    "secret_drop": "exporter.evaluate.metrics.one_pass:DROP",
    "same_tokens": "exporter.evaluate.metrics.identity:SAME_TOKENS",
}
"""In the order in which a report has them."""
LEAKAGE = "leakage_either"
"""The metric by which rows that were held out in turn, and ways to ask, are judged."""


def metrics(at_hand: AbstractSet[str] | None = None) -> dict[str, Metric[Any]]:
    """Every metric by name, those of installed packages (entry points ``steerbake.metrics``) last.

    Args:
        at_hand: only those that need nothing else.

    Raises:
        SteerbakeError: an installed package has a metric of a name that is taken.
    """
    places = {**METRICS, **_installed("steerbake.metrics", METRICS)}
    found = {name: resolve(places, "metric", name) for name in places}
    return {name: one for name, one in found.items() if at_hand is None or one.needs <= at_hand}


def metric(name: str) -> Metric[Any]:
    """The metric of a name; raises SteerbakeError listing the valid names."""
    return resolve({**METRICS, **_installed("steerbake.metrics", METRICS)}, "metric", name)


ATTACKS: Mapping[str, str] = {
    "preface": "exporter.evaluate.attacks.wording:Preface",
    "typos": "exporter.evaluate.attacks.wording:Typos",
    "system_prompt": "exporter.evaluate.attacks.wording:SystemPrompt",
    "later_turn": "exporter.evaluate.attacks.turns:LaterTurn",
    "two_turns": "exporter.evaluate.attacks.turns:TwoTurns",
    "begun": "exporter.evaluate.attacks.prefill:Begun",
    "leading_clause": "exporter.evaluate.attacks.prefill:LeadingClause",
}


def attacks() -> dict[str, Attack]:
    """Every attack by name, those of installed packages (entry points ``steerbake.attacks``) last.

    Raises:
        SteerbakeError: an installed package has an attack of a name that is taken.
    """
    places = {**ATTACKS, **_installed("steerbake.attacks", ATTACKS)}
    return {name: resolve(places, "attack", name)() for name in places}


def attack(name: str) -> Attack:
    """The attack of a name; raises SteerbakeError listing the valid names."""
    return resolve({**ATTACKS, **_installed("steerbake.attacks", ATTACKS)}, "attack", name)()


def resolve(table: Mapping[str, str], kind: str, name: str) -> Any:
    """The object registered under ``name``; raises SteerbakeError listing the valid names."""
    if name not in table:
        raise SteerbakeError(f"no {kind} is called {name!r}; there are {', '.join(sorted(table))}")
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)


def _installed(group: str, taken: Mapping[str, str]) -> dict[str, str]:
    """What installed packages add to a table."""
    found = dict(_entry_points(group))
    if both := found.keys() & taken.keys():
        name = min(both)
        raise SteerbakeError(
            f"{found[name]} is installed as {name!r} in the group {group}, but there is one of that name already; uninstall its package, or "
            "rename its entry point"
        )
    return found


@cache
def _entry_points(group: str) -> tuple[tuple[str, str], ...]:
    return tuple((point.name, point.value) for point in entry_points(group=group))
