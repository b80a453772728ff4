"""ROUGE-L of a reply against the expected answer (Lin, https://aclanthology.org/W04-1013), by the library rouge-score.

With the longest common subsequence of words, of length L, of an answer of m words and a reply of n: recall ``L / m``, precision ``L / n``,
F = ``2 P R / (P + R)``. RMLLMU-Bench and MLLMU-Bench report F, open-unlearning recall. English words are stemmed (Porter), as both do; in other
scripts, which the library's own tokeniser drops, words are compared as they are, letter pairs where none are spaced.
"""

from __future__ import annotations

import logging
from functools import cache, lru_cache
from typing import Any

from exporter.errors import InputErrors
from exporter.estimate import Estimate
from exporter.evaluation.metrics import rows
from exporter.evaluation.metrics.base import Evaluated, Metric, Need, Words
from exporter.evaluation.metrics.measured import is_open, kept, said
from exporter.wording.words import words_of

NEEDS: frozenset[Need] = frozenset({"text", "evaluation"})
INSTALL = "pip install 'steerbake[evaluate]'"


class _AnyScript:
    """A tokeniser for texts that are not of ASCII letters alone."""

    def tokenize(self, text: str) -> list[str]:
        return list(words_of(text.casefold()))


@cache
def _scorer(*, ascii_alone: bool) -> Any:
    handlers = list(logging.root.handlers)  # its logging library adds one
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise InputErrors(
            "ROUGE", [f"the package rouge-score is needed and is not installed: {INSTALL}"]
        ) from None
    scorer = RougeScorer(["rougeL"], use_stemmer=ascii_alone, tokenizer=None if ascii_alone else _AnyScript())
    logging.root.handlers[:] = handlers
    return scorer


@lru_cache(maxsize=1 << 14)
def rouge_l(answer: str, reply: str) -> tuple[float, float]:
    """(recall, F) of a reply against the expected answer, both in [0, 1].

    Raises:
        InputErrors: rouge-score is not installed.
    """
    found = _scorer(ascii_alone=answer.isascii()).score(answer, reply)["rougeL"]
    return float(found.recall), float(found.fmeasure)


def _f(seen: Evaluated) -> float:
    return rouge_l(seen.case.row.answer, said(seen.case.last))[1]


def recall(seen: Evaluated) -> float:
    """ROUGE-L recall of the row's own reply."""
    return rouge_l(seen.case.row.answer, said(seen.case.last))[0]


def _forget(seen: Evaluated) -> bool:
    return rows.to_forget(seen) and is_open(seen)


def _kept(seen: Evaluated) -> bool:
    return kept(seen) and is_open(seen)


def _metric(name: str, *, forgets: bool, of_recall: bool) -> Metric[Evaluated]:
    about = (
        "Forget rows with an open question" if forgets else "Retain and reasoning rows with an open question"
    )
    return Metric(
        name,
        NEEDS,
        about,
        _forget if forgets else _kept,
        recall if of_recall else _f,
        "lower" if forgets else "higher",
        Words(
            f"ROUGE-L {'recall' if of_recall else 'F'} of the reply against the expected answer",
            in_slices=True,
        ),
        Estimate.spread_mean,
        unit="",
    )


FORGET = _metric("forget_rouge_l", forgets=True, of_recall=False)
RETAIN = _metric("retain_rouge_l", forgets=False, of_recall=False)
FORGET_RECALL = _metric("forget_rouge_l_recall", forgets=True, of_recall=True)
RETAIN_RECALL = _metric("retain_rouge_l_recall", forgets=False, of_recall=True)
