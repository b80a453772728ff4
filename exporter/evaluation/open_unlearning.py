"""The same figures under the names, and in the files, of open-unlearning (https://github.com/locuslab/open-unlearning).

Its evaluator writes ``NAME_EVAL.json``, ``{metric: {"agg_value", "value_by_index"}}``, and ``NAME_SUMMARY.json``, ``{metric: value}``. Rows stand under
their ids in place of numbers. What was not measured is left out, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from exporter import registry
from exporter.atomic import write_json
from exporter.estimate import Estimate
from exporter.evaluation.metrics.base import Evaluated
from exporter.evaluation.metrics.measured import said
from exporter.evaluation.metrics.probability import passes_of, ratio_of
from exporter.evaluation.metrics.rouge import rouge_l

NAME = "STEERBAKE"
NAMES = {
    "forget_Q_A_Prob": "forget_probability",
    "forget_Q_A_ROUGE": "forget_rouge_l_recall",
    "forget_truth_ratio": "forget_truth_ratio",
    "forget_quality": "forget_quality",
    "retain_Q_A_Prob": "retain_probability",
    "retain_Q_A_ROUGE": "retain_rouge_l_recall",
    "retain_Truth_Ratio": "retain_truth_ratio",
    "model_utility": "model_utility",
    "extraction_strength": "answer_extraction_strength",
    "exact_memorization": "exact_memorisation",
    "mia_min_k": "min_k_auc",
    "privleak": "priv_leak",
}
"""Our metrics by its names."""


def _probability(seen: Evaluated) -> dict[str, float]:
    answer = passes_of(seen).answer
    return {"prob": answer.probability, "avg_loss": -answer.mean_logprob}


def _rouge(seen: Evaluated) -> dict[str, float]:
    recall, f = rouge_l(seen.case.row.answer, said(seen.case.last))
    return {"rougeL_recall": recall, "rougeL_f1": f}


def _ratio(seen: Evaluated) -> dict[str, float]:
    return {"score": ratio_of(seen)}


_OF_ROW: Mapping[str, Callable[[Evaluated], dict[str, float]]] = {
    "forget_Q_A_Prob": _probability,
    "retain_Q_A_Prob": _probability,
    "forget_Q_A_ROUGE": _rouge,
    "retain_Q_A_ROUGE": _rouge,
    "forget_truth_ratio": _ratio,
    "retain_Truth_Ratio": _ratio,
}
"""What it keeps of a row beside the value, by its names."""


def logs(seen: Sequence[Evaluated], figures: Mapping[str, Estimate]) -> dict[str, dict[str, object]]:
    """The content of its EVAL file.

    Args:
        seen: the rows of one model.
        figures: what was measured of it, by our names.
    """
    found: dict[str, dict[str, object]] = {}
    for theirs, ours in NAMES.items():
        if ours not in figures:
            continue
        metric = registry.metric(ours)
        of = _OF_ROW.get(theirs, lambda one, metric=metric: {"score": metric.of(one)})
        rows = {} if metric.whole else {one.case.row.id: of(one) for one in seen if metric.over(one)}
        found[theirs] = {"agg_value": figures[ours].value, "value_by_index": rows}
    return dict(sorted(found.items()))


def write(folder: Path, seen: Sequence[Evaluated], figures: Mapping[str, Estimate]) -> None:
    """Writes both files into a folder, which is made."""
    found = logs(seen, figures)
    write_json(folder / f"{NAME}_EVAL.json", found, indent=4)
    summary = {name: one["agg_value"] for name, one in found.items()}
    write_json(folder / f"{NAME}_SUMMARY.json", summary, indent=4)
