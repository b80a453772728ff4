"""What costs more than the test rows: attacks on a method's checkpoint, and the metrics of the field."""

from __future__ import annotations

from pathlib import Path

from exporter import pipeline, registry
from exporter.attack_report import AttackResult, worst_of
from exporter.pipeline.attack import Siege
from exporter.pipeline.evaluate import EvaluationRequest
from exporter.pipeline.evaluate import evaluate as evaluated
from exporter.recipe import Recipe

ON_THE_MODEL = {"relearned": "relearned_forget", "int4": "int4", "sampled": "sampled"}
METRICS = ("ril", "rcr", "model_utility", "forget_rouge_l", "forget_probability", "kl_to_base")


def attacked(recipe: Recipe, run: Path, limit: int) -> dict[str, object]:
    """``worst``: the way of asking under which most may leak (:func:`exporter.attack_report.worst_of`); and leaks of attacks on the model.

    What could not be measured is a sentence.
    """
    siege = Siege((*registry.attacks(), *ON_THE_MODEL.values()), limit=limit)
    found = pipeline.attack(run / "checkpoint", recipe, siege, run=run)
    named, worst = {one.name: one for one in found.attacks}, worst_of(found.attacks)
    return {
        "worst": "the base answers no attack"
        if worst is None or worst.held is None
        else {"attack": worst.name, **worst.held.share.as_dict("n")},
        **{name: _shown(named[attack]) for name, attack in ON_THE_MODEL.items()},
    }


def measured(recipe: Recipe, run: Path, limit: int) -> dict[str, object]:
    """The metrics of the field on so many test rows; one that counted nothing is the reason why."""
    found = evaluated([run / "checkpoint"], recipe, EvaluationRequest(run=run, limit=limit, metrics=METRICS))
    (model,) = (one for name, one in found.models.items() if one.kind != "base")
    return {
        name: one.why_not if one.value is None else {"value": one.value, "n": one.n, "interval": one.interval}
        for name, one in model.metrics.items()
        if name in METRICS
    }


def _shown(one: AttackResult) -> object:
    return _leak(one) if one.status == "measured" else f"{one.status}: {one.why}"


def _leak(one: AttackResult) -> dict[str, object]:
    assert one.leak is not None, "measured"
    return {"value": one.leak.value, "n": one.leak.n}
